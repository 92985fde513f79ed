//! SQL that the node writes. Every name and text in it is quoted here.

use crate::role::{LoginRole, Rights};
use crate::secret::Verifier;
use crate::{OWNER, READER};

/// Makes a role that logs in with the password of `verifier`.
pub fn new_login(role: LoginRole, verifier: &Verifier, rights: Rights) -> String {
    let name = identifier(&role.to_string());
    let (owner, reader) = (identifier(OWNER), identifier(READER));
    let made = match rights {
        Rights::ReadWrite => format!(
            "CREATE ROLE {name} LOGIN IN ROLE {owner};\n\
             ALTER ROLE {name} SET role = {};\n",
            literal(OWNER)
        ),
        // The setting is a courtesy: errors that say what is the matter. What keeps the role from
        // writing is that it has no right to.
        Rights::ReadOnly => format!(
            "CREATE ROLE {name} LOGIN IN ROLE {reader};\n\
             ALTER ROLE {name} SET default_transaction_read_only = on;\n"
        ),
    };
    made + &set_password(role, verifier)
}

/// Gives a role another password, as `ALTER ROLE` would. That one first tries whether the verifier is of the empty
/// password (`AlterRole` in `user.c`), which is 4096 rounds of a hash, and a tenth of a second of an emulated processor;
/// no password here is empty.
pub fn set_password(role: LoginRole, verifier: &Verifier) -> String {
    format!(
        "UPDATE pg_catalog.pg_authid SET rolpassword = {} WHERE {};\n",
        literal(verifier.text()),
        only(role)
    )
}

/// Lets a role in no more, and ends the sessions it has. What it ran is undone. May be repeated, also when
/// the role is gone.
pub fn shut_out(role: LoginRole) -> String {
    shut_out_all(&only(role))
}

/// As [`shut_out`], of every role that logs in but `kept`.
pub fn shut_out_others(kept: &[LoginRole]) -> String {
    shut_out_all(&others(kept))
}

fn shut_out_all(condition: &str) -> String {
    format!(
        "{}\
         SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity \
         JOIN pg_catalog.pg_roles ON usesysid OPERATOR(pg_catalog.=) pg_roles.oid WHERE {condition};\n",
        for_each(condition, &["ALTER ROLE %1$I NOLOGIN PASSWORD NULL"]),
    )
}

/// Removes a role that was shut out. What it made is the owner's from then on. May be repeated.
pub fn drop_login(role: LoginRole) -> String {
    drop_all(&only(role))
}

/// As [`drop_login`], of every role that logs in, or did until it was shut out, but `kept`.
pub fn drop_others(kept: &[LoginRole]) -> String {
    drop_all(&others(kept))
}

fn drop_all(condition: &str) -> String {
    let reassigning = format!("REASSIGN OWNED BY %1$I TO {}", identifier(OWNER));
    for_each(condition, &[&reassigning, "DROP OWNED BY %1$I", "DROP ROLE %1$I"])
}

/// What a row of `pg_roles` is when it is this role's; none is when the role is gone. As in [`others`], the
/// operators are named in full.
fn only(role: LoginRole) -> String {
    format!("rolname::text OPERATOR(pg_catalog.=) {}::text", literal(&role.to_string()))
}

/// What a row of `pg_roles` is when its role is the node's and none of `kept`. The operators are named in
/// full: whoever owns the database may have made others that look like them.
fn others(kept: &[LoginRole]) -> String {
    let kept: Vec<String> = kept.iter().map(|role| literal(&role.to_string())).collect();
    format!(
        "rolname::text OPERATOR(pg_catalog.~) '^u[0-9a-f]{{12}}$'::text AND NOT rolname::text \
         OPERATOR(pg_catalog.=) ANY (ARRAY[{}]::text[])",
        kept.join(", ")
    )
}

/// Runs `statements`, in each of which `%1$I` is its name, for every role that is as `condition` says.
fn for_each(condition: &str, statements: &[&str]) -> String {
    let run: String = statements
        .iter()
        .map(|statement| format!("EXECUTE pg_catalog.format({}, found);", literal(statement)))
        .collect();
    format!(
        "DO $sandflare$ DECLARE found text; BEGIN FOR found IN SELECT rolname FROM pg_catalog.pg_roles \
         WHERE {condition} LOOP {run} END LOOP; END $sandflare$;\n"
    )
}

/// Makes the database have these extensions; `vector` it has from its template.
pub fn extensions(wanted: &[String]) -> String {
    let mut sql = String::new();
    if !wanted.iter().any(|name| name == "vector") {
        sql.push_str("DROP EXTENSION IF EXISTS vector;\n");
    }
    for name in wanted.iter().filter(|name| *name != "vector") {
        sql.push_str(&format!("CREATE EXTENSION IF NOT EXISTS {} CASCADE;\n", identifier(name)));
    }
    sql
}

/// A name, quoted. A zero byte, which none can have, ends it.
fn identifier(name: &str) -> String {
    quoted(name, '"')
}

/// A text, quoted, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    match text.contains('\\') {
        true => format!(" E{}", quoted(&text.replace('\\', "\\\\"), '\'')),
        false => quoted(text, '\''),
    }
}

fn quoted(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars().take_while(|c| *c != '\0') {
        if c == mark {
            quoted.push(mark);
        }
        quoted.push(c);
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
mod test {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn roles_are_made_changed_and_removed() {
        let (role, verifier) = (LoginRole::from_bits(7), Verifier::of("Secret#42"));
        let all = [
            new_login(role, &verifier, Rights::ReadWrite),
            new_login(role, &verifier, Rights::ReadOnly),
            set_password(role, &verifier),
        ];
        for sql in &all {
            assert!(sql.contains("u000000000007") && sql.ends_with(";\n"), "{sql}");
            assert!(!sql.contains("Secret"), "{sql}");
        }
        assert!(all[0].contains("IN ROLE \"owner\"") && all[1].contains("IN ROLE \"reader\""));
        for sql in [shut_out(role), drop_login(role)] {
            assert!(sql.contains("OPERATOR(pg_catalog.=) 'u000000000007'::text"), "{sql}");
            assert!(sql.ends_with(";\n"), "{sql}");
        }
    }

    #[test]
    fn all_roles_but_some_are_shut_out_and_dropped() {
        let kept = [LoginRole::from_bits(7), LoginRole::from_bits(8)];
        for sql in [shut_out_others(&kept), drop_others(&kept)] {
            assert!(sql.contains("ARRAY['u000000000007', 'u000000000008']::text[]"), "{sql}");
        }
        assert!(shut_out_others(&[]).contains("ANY (ARRAY[]::text[])"));
        assert!(drop_others(&[]).contains("'DROP ROLE %1$I'"));
    }

    #[test]
    fn extensions_are_those_asked_for() {
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            extensions(&names)
        };
        assert_eq!(of(&["vector"]), "");
        assert_eq!(of(&[]), "DROP EXTENSION IF EXISTS vector;\n");
        assert_eq!(
            of(&["vector", "uuid-ossp"]),
            "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" CASCADE;\n"
        );
    }

    /// What a server reads between two marks.
    fn unquoted(quoted: &str, mark: char) -> Option<String> {
        let inner = quoted.strip_prefix(mark)?.strip_suffix(mark)?;
        let mut text = String::new();
        let mut all = inner.chars();
        while let Some(c) = all.next() {
            if c == mark && all.next() != Some(mark) {
                // The text ended here, and the rest is SQL.
                return None;
            }
            text.push(c);
        }
        Some(text)
    }

    proptest! {
        #[test]
        fn no_name_and_no_text_gets_out_of_its_quotes(text in "[^\0]*") {
            prop_assert_eq!(unquoted(&identifier(&text), '"'), Some(text.clone()));
            let literal = literal(&text);
            let inner = match literal.strip_prefix(" E") {
                Some(escaped) => {
                    prop_assert!(!escaped.replace("\\\\", "").contains('\\'));
                    escaped.replace("\\\\", "\\")
                }
                None => literal,
            };
            prop_assert_eq!(unquoted(&inner, '\''), Some(text));
        }
    }
}
