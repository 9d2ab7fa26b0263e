//! Manifests, as `kubectl` reads them, to [`Objects`]: YAML of several documents, or JSON; `List`s are unfolded.
//!
//! The reader takes text and the name to call it by: opening files is the caller's. It is not a validator of whole
//! objects: it checks their shape, [`Objects::intent`] checks what the used fields say.

use std::collections::HashMap;

use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_norway::{Mapping, Value};

use crate::intent::ObjectName;
use crate::objects::{Objects, Warning};

/// The kinds that are used: group and version as in `apiVersion`, kind, and whether objects have a namespace.
const USED: [(&str, &str, bool); 7] = [
    ("v1", "Node", false),
    ("v1", "Namespace", false),
    ("v1", "Pod", true),
    ("v1", "Service", true),
    ("discovery.k8s.io/v1", "EndpointSlice", true),
    ("networking.k8s.io/v1", "NetworkPolicy", true),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", false),
];

/// Kinds that say who may talk to whom and are not read, with what took their place: to pass over them would open what
/// they close.
const SUCCEEDED: [(&str, &str, &str); 2] = [
    ("policy.networking.k8s.io", "AdminNetworkPolicy", "tier: Admin"),
    ("policy.networking.k8s.io", "BaselineAdminNetworkPolicy", "tier: Baseline"),
];

/// Fields that any object may have and nobody needs here once its kind is known.
const EVERYWHERE: [&str; 3] = ["apiVersion", "kind", "status"];

/// Objects read so far.
#[derive(Debug, Clone, Default)]
pub struct Manifests {
    /// What has been read.
    pub objects: Objects,
    /// Objects of kinds that are not used and fields that the API does not know, in the order of reading.
    pub warnings: Vec<Warning>,
    /// Where each object was read: kind and name to file and document.
    sources: HashMap<(&'static str, ObjectName), String>,
}

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Neither YAML nor JSON, or a document that is no object.
    #[error("{file}, document {document}: {problem}")]
    Syntax {
        /// The text's name.
        file: String,
        /// Which document of it, from 1.
        document: usize,
        /// What is wrong, with line and column where they are known.
        problem: String,
    },
    /// An object whose field has a wrong type or is missing.
    #[error("{file}, document {document}: {object}: {field}: {problem}")]
    Field {
        /// The text's name.
        file: String,
        /// Which document of it, from 1.
        document: usize,
        /// Kind and name, such as `Pod shop/web-1`.
        object: String,
        /// Path of the field within the object.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// One object twice.
    #[error("{object} is in {first} and again in {second}")]
    Duplicate {
        /// Kind and name.
        object: String,
        /// File and document of the first.
        first: String,
        /// File and document of the second.
        second: String,
    },
}

impl Manifests {
    /// Reads `text`, which messages call `file`, and adds its objects.
    ///
    /// # Errors
    /// [`ManifestError`] at the first document that cannot be read; the documents before it have been added.
    pub fn parse(&mut self, file: &str, text: &str) -> Result<(), ManifestError> {
        for (index, document) in documents(text).enumerate() {
            let place = Place { file, document: index + 1 };
            match document.map_err(|problem| place.syntax(problem))? {
                Value::Null => {}
                Value::Mapping(object) => self.add(&place, object)?,
                _ => return Err(place.syntax("not an object".into())),
            }
        }
        Ok(())
    }

    fn add(&mut self, place: &Place<'_>, object: Mapping) -> Result<(), ManifestError> {
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let identity = Identity::of(&object);
        let missing = |field: &str| place.field(identity.to_string(), field, "is missing".into());
        let kind = text("kind").ok_or_else(|| missing("kind"))?;
        let version = text("apiVersion").ok_or_else(|| missing("apiVersion"))?;
        if let Some(item_kind) = kind.strip_suffix("List").filter(|_| object.contains_key("items")) {
            let (item_kind, version) = (item_kind.to_owned(), version.to_owned());
            return self.add_list(place, object, &item_kind, &version);
        }
        if let Some((.., tier)) =
            SUCCEEDED.into_iter().find(|(succeeded, k, _)| *k == kind && *succeeded == group(version))
        {
            let problem = format!(
                "{kind} is not read; write it as its successor, ClusterNetworkPolicy of \
                 policy.networking.k8s.io/v1alpha2 with {tier}"
            );
            return Err(place.field(identity.to_string(), "kind", problem));
        }
        let Some((used, kind, namespaced)) =
            USED.into_iter().find(|(used, k, _)| *k == kind && group(used) == group(version))
        else {
            let object = format!("{}: {identity}", place.file);
            self.warnings
                .push(Warning { object, problem: format!("{version} {kind} is not a kind that is used") });
            return Ok(());
        };
        if version != used {
            let problem = format!("{version:?} is not read; write it as {used:?}");
            return Err(place.field(identity.to_string(), "apiVersion", problem));
        }
        let name = text_at(&object, &["metadata", "name"]).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| missing("metadata.name"))?;
        let namespace =
            text_at(&object, &["metadata", "namespace"]).filter(|namespace| !namespace.is_empty());
        let namespace = if namespaced { namespace.unwrap_or("default") } else { "" };
        let name = ObjectName::new(namespace, name);
        self.claim(kind, &name, place)?;
        self.insert(place, kind, name, Value::Mapping(object))
    }

    /// Adds the items of a `List`, or of a `PodList` and the like, whose items may leave their kind out.
    fn add_list(
        &mut self,
        place: &Place<'_>,
        mut list: Mapping,
        kind: &str,
        version: &str,
    ) -> Result<(), ManifestError> {
        let name = format!("{kind}List");
        let items = match list.remove("items") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Sequence(items)) => items,
            Some(_) => return Err(place.field(name, "items", "not a list".into())),
        };
        for (index, item) in items.into_iter().enumerate() {
            let Value::Mapping(mut item) = item else {
                return Err(place.field(name, &format!("items[{index}]"), "not an object".into()));
            };
            if !kind.is_empty() && !item.contains_key("kind") {
                item.insert("kind".into(), kind.into());
                item.insert("apiVersion".into(), version.into());
            }
            self.add(place, item)?;
        }
        Ok(())
    }

    /// Notes where an object was read, once.
    fn claim(
        &mut self,
        kind: &'static str,
        name: &ObjectName,
        place: &Place<'_>,
    ) -> Result<(), ManifestError> {
        match self.sources.insert((kind, name.clone()), place.to_string()) {
            None => Ok(()),
            Some(first) => {
                let object = format!("{kind} {name}");
                Err(ManifestError::Duplicate { object, first, second: place.to_string() })
            }
        }
    }

    fn insert(
        &mut self,
        place: &Place<'_>,
        kind: &str,
        name: ObjectName,
        value: Value,
    ) -> Result<(), ManifestError> {
        let Manifests { objects, warnings, .. } = self;
        let mut reading = Reading { place, object: format!("{kind} {name}"), name: &name, warnings };
        match kind {
            "Node" => drop(objects.nodes.insert(name.clone(), reading.typed(value)?)),
            "Namespace" => drop(objects.namespaces.insert(name.clone(), reading.typed(value)?)),
            "Pod" => drop(objects.pods.insert(name.clone(), reading.typed(value)?)),
            "Service" => drop(objects.services.insert(name.clone(), reading.typed(value)?)),
            "EndpointSlice" => drop(objects.endpoint_slices.insert(name.clone(), reading.typed(value)?)),
            "NetworkPolicy" => {
                drop(objects.network_policies.insert(name.clone(), reading.policy(value)?));
            }
            _ => drop(objects.cluster_network_policies.insert(name.clone(), reading.policy(value)?)),
        }
        Ok(())
    }
}

/// Where a document stands.
struct Place<'a> {
    file: &'a str,
    document: usize,
}

impl Place<'_> {
    fn syntax(&self, problem: String) -> ManifestError {
        ManifestError::Syntax { file: self.file.to_owned(), document: self.document, problem }
    }

    fn field(&self, object: String, field: &str, problem: String) -> ManifestError {
        let field = field.to_owned();
        ManifestError::Field { file: self.file.to_owned(), document: self.document, object, field, problem }
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (document {})", self.file, self.document)
    }
}

/// What to call an object of any kind in a message.
struct Identity {
    kind: String,
    name: ObjectName,
}

impl Identity {
    fn of(object: &Mapping) -> Self {
        let text = |path: &[&str]| text_at(object, path).unwrap_or_default().to_owned();
        let name =
            ObjectName { namespace: text(&["metadata", "namespace"]), name: text(&["metadata", "name"]) };
        Identity { kind: text(&["kind"]), name }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.kind.is_empty() { "object" } else { &self.kind };
        let name =
            if self.name.name.is_empty() { "without a name".to_owned() } else { self.name.to_string() };
        write!(f, "{kind} {name}")
    }
}

/// One object being read into its type.
struct Reading<'a> {
    place: &'a Place<'a>,
    object: String,
    name: &'a ObjectName,
    warnings: &'a mut Vec<Warning>,
}

impl Reading<'_> {
    /// The typed object, its namespace filled in. Fields that its type does not have become warnings.
    fn typed<T>(&mut self, value: Value) -> Result<T, ManifestError>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
    {
        let (object, unknown) = self.read(value)?;
        self.warn_of(&unknown);
        Ok(object)
    }

    /// The same of a policy. A field that is unknown to its spec is refused, as the API server refuses it: without what it
    /// was to say, the policy would say more than it should.
    fn policy<T>(&mut self, value: Value) -> Result<T, ManifestError>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
    {
        let (object, unknown) = self.read(value)?;
        if let Some(field) = unknown.iter().find(|field| field.starts_with("spec.")) {
            return Err(self.place.field(self.object.clone(), field, "is not a field of the API".into()));
        }
        self.warn_of(&unknown);
        Ok(object)
    }

    fn warn_of(&mut self, unknown: &[String]) {
        for field in unknown.iter().filter(|field| !EVERYWHERE.contains(&field.as_str())) {
            let object = format!("{}: {}", self.place.file, self.object);
            self.warnings
                .push(Warning { object, problem: format!("{field} is not a field of the API; ignored") });
        }
    }

    /// The typed object, its namespace filled in, and the fields that its type does not have.
    fn read<T>(&self, value: Value) -> Result<(T, Vec<String>), ManifestError>
    where
        T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
    {
        let mut ignored = Vec::new();
        let mut unknown = |path: serde_ignored::Path<'_>| {
            let mut field = String::new();
            write_path(&path, &mut field);
            ignored.push(field);
        };
        let mut track = serde_path_to_error::Track::new();
        let noting = serde_ignored::Deserializer::new(value, &mut unknown);
        let mut object =
            T::deserialize(serde_path_to_error::Deserializer::new(noting, &mut track)).map_err(|error| {
                self.place.field(self.object.clone(), &track.path().to_string(), error.to_string())
            })?;
        object.metadata_mut().namespace =
            Some(self.name.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Ok((object, ignored))
    }
}

/// The documents of a text. After a document with a syntax error there are no others.
fn documents(text: &str) -> Box<dyn Iterator<Item = Result<Value, String>> + '_> {
    if text.trim_start().starts_with('{') {
        // JSON may be indented with tabs, which YAML forbids. What is no JSON may still be YAML in flow style.
        let json: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(values) = json {
            return Box::new(values.into_iter().map(Ok));
        }
    }
    let mut failed = false;
    let documents = serde_norway::Deserializer::from_str(text).map(|document| {
        let mut value = Value::deserialize(document).map_err(|error| error.to_string())?;
        value.apply_merge().map_err(|error| error.to_string())?;
        Ok(value)
    });
    Box::new(documents.take_while(move |document: &Result<Value, String>| {
        !std::mem::replace(&mut failed, document.is_err())
    }))
}

/// The group of an `apiVersion`; empty for the core group.
fn group(version: &str) -> &str {
    version.rsplit_once('/').map_or("", |(group, _)| group)
}

fn text_at<'a>(object: &'a Mapping, path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match object.get(*first)? {
        Value::String(text) if rest.is_empty() => Some(text),
        Value::Mapping(inner) => text_at(inner, rest),
        _ => None,
    }
}

/// Writes the path as Kubernetes does: `spec.ingress[0].from`.
fn write_path(path: &serde_ignored::Path<'_>, out: &mut String) {
    use serde_ignored::Path;
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            write_path(parent, out);
            out.push_str(&format!("[{index}]"));
        }
        Path::Map { parent, key } => {
            write_path(parent, out);
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(key);
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            write_path(parent, out);
        }
    }
}

#[cfg(test)]
mod tests;
