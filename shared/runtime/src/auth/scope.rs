//! Scopes and what they imply: `mesh.read` ⊂ `mesh.observe` ⊂ `mesh.operate` and ⊂ `mesh.approve`, all ⊂ `mesh.admin`.

use omnirelay_workflow::word_enum;

word_enum!(
    Scope {
        /// Reads.
        Read = "mesh.read",
        /// Streams.
        Observe = "mesh.observe",
        /// Mutations of peers and operations.
        Operate = "mesh.operate",
        /// Decisions on what others asked for.
        Approve = "mesh.approve",
        /// Clusters, settings, closing what is stuck.
        Admin = "mesh.admin",
    }
);

impl Scope {
    const fn bit(self) -> u8 {
        match self {
            Scope::Read => 1,
            Scope::Observe => 2,
            Scope::Operate => 4,
            Scope::Approve => 8,
            Scope::Admin => 16,
        }
    }

    /// This scope with all that it implies.
    const fn implied(self) -> u8 {
        match self {
            Scope::Read => 1,
            Scope::Observe => 1 | 2,
            Scope::Operate => 1 | 2 | 4,
            Scope::Approve => 1 | 2 | 8,
            Scope::Admin => 1 | 2 | 4 | 8 | 16,
        }
    }
}

/// What a principal may do: the scopes that were granted and those that they imply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Words that are no scope of ours are another system's, and grant nothing here.
    pub fn granted<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(|word| word.parse::<Scope>().ok()).collect()
    }

    pub const fn allow(self, wanted: Scope) -> bool {
        self.0 & wanted.bit() != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |bits, scope| bits | scope.implied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scope_allows() {
        use Scope::{Admin, Approve, Observe, Operate, Read};
        let check = |granted: &str, allowed: &[Scope]| {
            let scopes = Scopes::granted(granted.split(' '));
            for scope in Scope::ALL {
                assert_eq!(scopes.allow(*scope), allowed.contains(scope), "{granted:?} and {scope}");
            }
        };
        check("", &[]);
        check("openid profile", &[]);
        check("mesh.read", &[Read]);
        check("mesh.observe", &[Read, Observe]);
        check("mesh.operate", &[Read, Observe, Operate]);
        check("mesh.approve openid", &[Read, Observe, Approve]);
        check("mesh.operate mesh.approve", &[Read, Observe, Operate, Approve]);
        check("mesh.admin", &[Read, Observe, Operate, Approve, Admin]);
    }
}
