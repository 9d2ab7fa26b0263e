//! Profiles: the options of a command in a TOML file. What a key is called, what it takes and where it belongs is
//! what the command line says of its flag, so that the two cannot disagree.
//!
//! ```toml
//! engine = "xdp"             # flags without a heading in --help
//! [traffic]                  # flags under the heading Traffic, without their dashes
//! dst-ip = "198.18.0.2"
//! size = { 64 = 7, 594 = 4 } # weights; also "64=7,594=4"
//! [trials]
//! trial = "10s"
//! [[search.goal]]            # flags that may be given again and again
//! name = "PDR"
//! loss = "0.5%"
//! ```
//!
//! What is given on the command line goes before the profile.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

/// A profile that cannot be used: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("profile {}: {reason}", file.display())]
pub struct ProfileError {
    file: PathBuf,
    reason: String,
}

/// The words of a command line, with those of its profile put in where there is one. `words` begins with the
/// program's name.
///
/// # Errors
/// [`ProfileError`] naming the file, and the key by its path.
pub fn expand(program: &Command, words: Vec<OsString>) -> Result<Vec<OsString>, ProfileError> {
    let Some(name) = words.get(1).and_then(|word| word.to_str()) else { return Ok(words) };
    let Some(command) = program.find_subcommand(name) else { return Ok(words) };
    let takes_profile = command.get_arguments().any(|arg| arg.get_long() == Some("profile"));
    let Some(file) = value_of(&words, "--profile").filter(|_| takes_profile) else { return Ok(words) };
    let file = PathBuf::from(file);
    let failed = |reason: String| ProfileError { file: file.clone(), reason };
    let text = std::fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
    let profile = flags(command, &text).map_err(failed)?;
    let (begin, rest) = words.split_at(2);
    let kept = profile.into_iter().filter(|flag| !given(rest, flag.short, &flag.long));
    let from_profile = kept.map(|flag| flag.word);
    Ok(begin.iter().cloned().chain(from_profile).chain(rest.iter().cloned()).collect())
}

/// A flag as a profile sets it.
#[derive(Debug, PartialEq)]
struct Flag {
    long: String,
    short: Option<char>,
    /// `--long=value`, or `--long`.
    word: OsString,
}

/// Whether the command line itself sets the flag.
fn given(words: &[OsString], short: Option<char>, long: &str) -> bool {
    let long = format!("--{long}");
    let with_value = format!("{long}=");
    words.iter().filter_map(|word| word.to_str()).any(|word| {
        let is_short = short.is_some_and(|short| {
            word.strip_prefix('-').is_some_and(|rest| !rest.starts_with('-') && rest.starts_with(short))
        });
        word == long || word.starts_with(&with_value) || is_short
    })
}

/// The value of a flag among words: `--flag value` or `--flag=value`; the last one.
fn value_of(words: &[OsString], flag: &str) -> Option<OsString> {
    let mut found = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == OsStr::new(flag) {
            found = words.next().cloned();
        } else if let Some(value) = word.to_str().and_then(|word| word.strip_prefix(flag)?.strip_prefix('='))
        {
            found = Some(value.into());
        }
    }
    found
}

/// The flags that a profile sets, each checked by itself.
fn flags(command: &Command, text: &str) -> Result<Vec<Flag>, String> {
    let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut flags = Vec::new();
    for (name, value) in &table {
        match value {
            // A table may also be the value of a flag without a heading.
            Value::Table(keys) if argument(command, "", name).is_none() => {
                let known = sections(command);
                if !known.contains(name) {
                    let known = known.join(", ");
                    return Err(format!(
                        "{name}: there is no such table; `{}` has: {known}",
                        command.get_name()
                    ));
                }
                for (key, value) in keys {
                    flags.extend(entry(command, name, key, value)?);
                }
            }
            value => flags.extend(entry(command, "", name, value)?),
        }
    }
    Ok(flags)
}

/// The tables that a command has: the headings of its flags.
fn sections(command: &Command) -> Vec<String> {
    let mut sections: Vec<String> =
        command.get_arguments().map(section).filter(|section| !section.is_empty()).collect();
    sections.sort();
    sections.dedup();
    sections
}

fn section(arg: &Arg) -> String {
    arg.get_help_heading().unwrap_or("").to_lowercase()
}

/// The flag that a key names.
fn argument<'a>(command: &'a Command, in_section: &str, key: &str) -> Option<&'a Arg> {
    settable(command).find(|arg| arg.get_long() == Some(key) && section(arg) == in_section)
}

fn settable(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        !matches!(arg.get_long(), None | Some("profile" | "help" | "version"))
            && matches!(arg.get_action(), ArgAction::Set | ArgAction::Append | ArgAction::SetTrue)
    })
}

/// The flags that one key sets.
fn entry(command: &Command, in_section: &str, key: &str, value: &Value) -> Result<Vec<Flag>, String> {
    let path = if in_section.is_empty() { key.to_owned() } else { format!("{in_section}.{key}") };
    let Some(arg) = argument(command, in_section, key) else {
        return Err(format!("{path}: {}", unknown(command, in_section, key)));
    };
    let words = match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => vec![format!("--{key}")],
        (ArgAction::SetTrue, Value::Boolean(false)) => Vec::new(),
        (ArgAction::SetTrue, other) => {
            return Err(format!("{path}: it is true or false, not {}", other.type_str()));
        }
        (ArgAction::Append, Value::Array(values)) if arg.get_value_delimiter().is_none() => values
            .iter()
            .enumerate()
            .map(|(index, value)| Ok(format!("--{key}={}", text(value, &format!("{path}[{index}]"))?)))
            .collect::<Result<_, String>>()?,
        (_, value) => vec![format!("--{key}={}", text(value, &path)?)],
    };
    let flag = |word: String| Flag { long: key.to_owned(), short: arg.get_short(), word: word.into() };
    words
        .into_iter()
        .map(|word| {
            check(arg, &word).map_err(|reason| format!("{path}: {reason}"))?;
            Ok(flag(word))
        })
        .collect()
}

/// What is wrong with a key that is not there, and where it would belong.
fn unknown(command: &Command, in_section: &str, key: &str) -> String {
    if let Some(elsewhere) = settable(command).find(|arg| arg.get_long() == Some(key)) {
        return match section(elsewhere).as_str() {
            "" => "it belongs above all tables".into(),
            section => format!("it belongs in [{section}]"),
        };
    }
    let known: Vec<_> =
        settable(command).filter(|arg| section(arg) == in_section).filter_map(Arg::get_long).collect();
    format!("`{}` has no such key; there are: {}", command.get_name(), known.join(", "))
}

/// A value as a flag takes it: arrays joined by commas, tables as `key=value`.
fn text(value: &Value, path: &str) -> Result<String, String> {
    let joined = |parts: Result<Vec<String>, String>| Ok(parts?.join(","));
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Array(values) => {
            let part = |(index, value)| text(value, &format!("{path}[{index}]"));
            joined(values.iter().enumerate().map(part).collect())
        }
        Value::Table(keys) => {
            let part = |(key, value): (&String, &Value)| match value {
                Value::Array(_) | Value::Table(_) => {
                    Err(format!("{path}.{key}: it must be text or a number"))
                }
                value => Ok(format!("{key}={}", text(value, &format!("{path}.{key}"))?)),
            };
            joined(keys.iter().map(part).collect())
        }
        Value::Boolean(_) | Value::Datetime(_) => {
            Err(format!("{path}: it must be text, a number, a list or a table, not {}", value.type_str()))
        }
    }
}

/// Whether the flag takes the word, in clap's words where it does not.
fn check(arg: &Arg, word: &str) -> Result<(), String> {
    let alone = Command::new("profile").no_binary_name(true).arg(alone(arg));
    let Some((_, value)) = word.split_once('=') else { return Ok(()) };
    let Err(error) = alone.try_get_matches_from([format!("--value={value}")]) else { return Ok(()) };
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidValue => match context(ContextKind::ValidValue) {
            Some(valid) => Err(format!("`{value}` is none of {valid}")),
            None => Err("it needs a value".into()),
        },
        _ => {
            let source = std::error::Error::source(&error);
            Err(source.map_or_else(|| error.kind().to_string(), ToString::to_string))
        }
    }
}

/// The flag as if there were no other, by the name of `--value`.
fn alone(arg: &Arg) -> Arg {
    let alone = Arg::new("value")
        .long("value")
        .action(arg.get_action().clone())
        .value_parser(arg.get_value_parser().clone());
    match arg.get_value_delimiter() {
        Some(delimiter) => alone.value_delimiter(delimiter),
        None => alone,
    }
}

/// The settings of a command as they are in the end, for reports: `section.key` and its text. Positional arguments
/// and those of the output are left out.
pub fn settings(command: &Command, matches: &clap::ArgMatches) -> std::collections::BTreeMap<String, String> {
    let of = |arg: &Arg| {
        let long = arg.get_long()?;
        let section = section(arg);
        if section == "output" {
            return None;
        }
        let text = match arg.get_action() {
            ArgAction::SetTrue => matches.get_flag(arg.get_id().as_str()).to_string(),
            _ => {
                let raw = matches.get_raw(arg.get_id().as_str())?;
                let texts: Vec<_> = raw.map(|text| text.to_string_lossy().into_owned()).collect();
                texts.join(if arg.get_value_delimiter().is_some() { "," } else { " " })
            }
        };
        let key = if section.is_empty() { long.to_owned() } else { format!("{section}.{long}") };
        Some((key, text))
    };
    settable(command).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;
    use proptest::prelude::*;

    use crate::options::{CertifyOptions, Rfc2544Options, RunOptions, SearchOptions};

    fn program() -> Command {
        Command::new("pktgen")
            .subcommand(RunOptions::augment_args(Command::new("run")))
            .subcommand(Rfc2544Options::augment_args(Command::new("rfc2544")))
            .subcommand(SearchOptions::augment_args(Command::new("search")))
            .subcommand(CertifyOptions::augment_args(Command::new("certify")))
    }

    fn words(command: &str, text: &str) -> Result<Vec<String>, String> {
        let program = program();
        let flags = flags(program.find_subcommand(command).unwrap(), text)?;
        Ok(flags.into_iter().map(|flag| flag.word.into_string().unwrap()).collect())
    }

    #[test]
    fn keys_become_flags() {
        let rows = [
            ("run", "engine = \"xdp\"", "--engine=xdp"),
            ("run", "[traffic]\nflows = 64", "--flows=64"),
            ("run", "[traffic]\nsize = [64, 594]", "--size=64,594"),
            ("run", "[traffic]\nsize = { 64 = 7, 594 = 4 }", "--size=594=4,64=7"),
            (
                "run",
                "[traffic]\nvxlan = { vni = 1, src = \"192.0.2.1\", dst = \"192.0.2.2\" }",
                "--vxlan=dst=192.0.2.2,src=192.0.2.1,vni=1",
            ),
            ("run", "[receiver]\nno-verify = true", "--no-verify"),
            ("run", "[receiver]\nno-verify = false", ""),
            ("rfc2544", "[trials]\nsizes = [64, \"imix\"]\ntest = \"loss\"", "--sizes=64,imix --test=loss"),
            (
                "search",
                "[search]\ngoal = [\"ndr\", { name = \"x\", loss = 0.01 }]",
                "--goal=ndr --goal=loss=0.01,name=x",
            ),
            ("search", "[[search.goal]]\nloss = 0.01", "--goal=loss=0.01"),
        ];
        for (command, text, expected) in rows {
            assert_eq!(words(command, text).unwrap().join(" "), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let rows = [
            ("run", "[traffic]\ncolour = 1", "traffic.colour: `run` has no such key"),
            ("run", "[colours]\nred = 1", "colours: there is no such table"),
            ("run", "flows = 1", "flows: it belongs in [traffic]"),
            ("run", "[traffic]\nengine = \"xdp\"", "traffic.engine: it belongs above all tables"),
            ("run", "engine = \"warp\"", "engine: `warp` is none of xdp, live, socket"),
            ("run", "[traffic]\nflows = \"many\"", "traffic.flows: "),
            ("run", "[traffic]\nflows = -1", "traffic.flows: "),
            ("run", "[traffic]\nflows = 1.5", "traffic.flows: "),
            ("run", "[traffic]\nflows = true", "traffic.flows: it must be text"),
            ("run", "[traffic]\nsize = [64, [1]]\nttl = 1979-05-27", "traffic.size"),
            ("run", "[traffic]\nsize = [64, { a = [1] }]", "traffic.size[1].a: "),
            ("run", "[load]\nrate = \"fast\"", "load.rate: `fast` is not a rate"),
            ("run", "[receiver]\nno-verify = \"yes\"", "receiver.no-verify: it is true or false"),
            ("run", "profile = \"other.toml\"", "profile: `run` has no such key"),
            ("run", "[traffic\n", "line 1"),
            ("run", "[search]\ngoal = \"ndr\"", "search: there is no such table"),
            ("search", "[search]\ngoal = [\"ndr\", \"fast\"]", "search.goal: `fast`"),
            ("search", "[[search.goal]]\nwidth = 0", "search.goal: width: 0"),
            ("rfc2544", "[trials]\nsizes = [64, 20]", "trials.sizes: "),
            ("rfc2544", "[trials]\ntest = \"speed\"", "trials.test: `speed` is none of throughput"),
        ];
        for (command, text, says) in rows {
            let error = words(command, text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn flags_go_before_the_profile_and_other_command_lines_stay_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("profile.toml");
        std::fs::write(&file, "[traffic]\nflows = 64\nttl = 9\n[output]\noutput = \"csv\"\n").unwrap();
        let expanded = |text: &str| {
            let text = text.replace("FILE", file.to_str().unwrap());
            let words = text.split_whitespace().map(OsString::from).collect();
            let expanded = expand(&program(), words).map_err(|error| error.to_string())?;
            Ok::<_, String>(
                expanded.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            )
        };
        let all = expanded("pktgen run --profile FILE").unwrap();
        assert_eq!(all[2..5], ["--output=csv", "--flows=64", "--ttl=9"]);
        for given in ["--flows 1", "--flows=1"] {
            let some = expanded(&format!("pktgen run --profile=FILE {given} -ojson")).unwrap();
            assert_eq!(some[2..3], ["--ttl=9"], "{some:?}");
        }
        for same in ["pktgen", "pktgen --help", "pktgen run --flows 2", "pktgen warp --profile FILE"] {
            assert_eq!(expanded(same).unwrap().len(), same.split_whitespace().count());
        }
        let error = expanded("pktgen run --profile /nowhere.toml").unwrap_err();
        assert!(error.contains("/nowhere.toml"), "{error}");
    }

    #[test]
    fn the_examples_are_profiles_of_their_commands() {
        let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pktgen");
        let mut seen = 0;
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            // The first line is how it is used.
            let usage = text.lines().next().unwrap().trim_start_matches("# ").to_owned();
            let words: Vec<&str> = usage.split_whitespace().collect();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(usage.contains(&format!("examples/pktgen/{name}")), "{usage}");
            let flags = self::words(words[1], &text).unwrap_or_else(|error| panic!("{name}: {error}"));
            let given = words[2..].join(" ").replace(&format!("--profile examples/pktgen/{name}"), "");
            let line = [vec!["pktgen".to_owned(), words[1].to_owned()], flags].concat();
            let line = line.into_iter().chain(given.split_whitespace().map(str::to_owned));
            program().try_get_matches_from(line).unwrap_or_else(|error| panic!("{name}: {error}"));
            seen += 1;
        }
        assert_eq!(seen, 5);
    }

    /// What a mutated profile may say: whatever it is, either it is understood or the file's place is named.
    fn valid() -> String {
        let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pktgen/search.toml");
        std::fs::read_to_string(examples).unwrap()
    }

    proptest! {
        #[test]
        fn no_mutation_of_a_profile_is_too_strange(
            at in any::<prop::sample::Index>(), len in 0usize..20, put in "[\\[\\]{}=\"'#a-z0-9.,\\n -]{0,12}",
        ) {
            let mut text: Vec<char> = valid().chars().collect();
            let at = at.index(text.len());
            let end = (at + len).min(text.len());
            text.splice(at..end, put.chars());
            let text: String = text.into_iter().collect();
            if let Err(error) = words("search", &text) {
                let named = error.contains(": ") || error.contains("TOML parse error");
                prop_assert!(named && !error.trim().is_empty(), "{}", error);
            }
        }

        #[test]
        fn an_unknown_key_is_named_wherever_it_stands(
            section in prop_oneof![Just(""), Just("traffic"), Just("trials"), Just("sender")], key in "[a-z]{3,9}-zz",
        ) {
            let text = if section.is_empty() { format!("{key} = 1") } else { format!("[{section}]\n{key} = 1") };
            let path = if section.is_empty() { key } else { format!("{section}.{key}") };
            let begin = format!("{path}: ");
            prop_assert!(words("search", &text).unwrap_err().starts_with(&begin));
        }

        #[test]
        fn no_value_is_too_strange(value in "\\PC{0,20}", flag in prop_oneof![
            Just("dst-ip"), Just("src-port"), Just("protocol"), Just("size"), Just("vxlan"), Just("popularity"),
            Just("dst-mac"), Just("run-id"), Just("ttl"),
        ]) {
            let text = toml::to_string(&Table::from_iter([(
                "traffic".to_owned(),
                Value::Table(Table::from_iter([(flag.to_owned(), Value::String(value))])),
            )])).unwrap();
            if let Err(error) = words("run", &text) {
                let begin = format!("traffic.{flag}: ");
                prop_assert!(error.starts_with(&begin), "{}", error);
            }
        }
    }
}
