//! Checked compilation: what the [`Compiler`] has compiled, held to the state that it holds.

use super::{Compiler, Prepared};
use crate::check::{Checked, Checker, Laid, Mismatches, State};
use crate::intent::{Endpoint, Identity, Policy};
use crate::policy::PolicyTable;
use crate::view::Change;

impl Compiler {
    /// Checks the tables in force: one witness of every class.
    ///
    /// # Errors
    /// [`Mismatches`] where the tables say something else than the policies.
    pub fn check(&mut self) -> Result<Checked, Box<Mismatches>> {
        let (policy, generation) = (std::sync::Arc::clone(&self.tables.policy), self.tables.generation);
        self.check_table(&policy, generation)
    }

    /// Checks any table against the state in force, as [`Compiler::check`] does its own.
    ///
    /// # Errors
    /// As [`Compiler::check`].
    pub fn check_table(&mut self, table: &PolicyTable, generation: u64) -> Result<Checked, Box<Mismatches>> {
        self.with_checker(|checker, state| checker.whole(state, table, generation))
    }

    /// Gives what checks, made where there was none, and the state in force.
    pub(crate) fn with_checker<T>(&mut self, work: impl FnOnce(&Checker, &State<'_>) -> T) -> T {
        let checker = self.checker.take();
        let state = self.state(&[], &[], &[]);
        let checker = checker.unwrap_or_else(|| Checker::new(&state));
        let answer = work(&checker, &state);
        self.checker = Some(checker);
        answer
    }

    /// Checks what an update that was prepared changes: one witness of every class that changed, within a bound.
    ///
    /// # Errors
    /// As [`Compiler::check`].
    pub fn check_prepared(&mut self, prepared: &Prepared) -> Result<Checked, Box<Mismatches>> {
        let checker = self.checker.take();
        let mut checker = checker.unwrap_or_else(|| Checker::new(&self.state(&[], &[], &[])));
        let (endpoints, policies) = self.changes(prepared);
        let state = self.state(&prepared.update.identities, &endpoints.added, &policies.added);
        let (table, generation) = (&prepared.tables.policy, prepared.tables.generation);
        let checked = checker.change(&state, &endpoints, &policies, table, generation);
        self.checker = Some(checker);
        checked
    }

    /// Takes an update, which is about to be made, into what checks the next.
    pub(super) fn commit_checker(&mut self, prepared: &Prepared) {
        let Some(mut checker) = self.checker.take() else { return };
        let (endpoints, policies) = self.changes(prepared);
        let state = self.state(&prepared.update.identities, &endpoints.added, &policies.added);
        checker.commit(&state, &endpoints, &policies);
        self.checker = Some(checker);
    }

    fn changes<'a>(&'a self, prepared: &'a Prepared) -> (Change<'a, Endpoint>, Change<'a, Policy>) {
        let Prepared { update, endpoints, policies, .. } = prepared;
        let endpoints = self.endpoints.change(endpoints, &update.endpoints);
        (endpoints, self.policies.change(policies, &update.policies))
    }

    fn state<'a>(
        &'a self,
        identities: &'a [Identity],
        endpoints: &'a [(u32, &'a Endpoint)],
        policies: &'a [(u32, &'a Policy)],
    ) -> State<'a> {
        State {
            nodes: &self.nodes,
            identities: [&self.identities, identities],
            endpoints: Laid { slots: &self.endpoints, added: endpoints },
            policies: Laid { slots: &self.policies, added: policies },
        }
    }
}

#[cfg(test)]
impl Prepared {
    /// The same with another policy table, as if it had been compiled so.
    pub(crate) fn with_policy(mut self, policy: std::sync::Arc<PolicyTable>) -> Self {
        self.tables.policy = policy;
        self
    }
}
