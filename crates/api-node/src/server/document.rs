//! What the document says of the form of texts and numbers, beside their meaning: so that whoever makes
//! requests from it makes some that are carried out. And what it says of all creates alike.

use base_types::Size;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{
    ArrayItems, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat,
};
use utoipa::openapi::{Content, OpenApi, PathItem, RefOr, Required, Type};

use crate::server::idempotency::{CREATES, KEY_BYTES_MAX, REPLAYED};
use crate::{
    DATABASE_DISK_MIB_MAX, DATABASE_DISK_MIB_MIN, FORK_COUNT_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX,
    POLICY_RULE_BYTES_MAX, POLICY_RULES_MAX, PTY_SIDE_MAX, QUERY_ROWS_MAX, QUERY_TIMEOUT_MS_MAX,
    SECRET_HOSTS_MAX, SECRET_NAME_BYTES_MAX,
};

/// What an id in a path looks like, by what the path begins with.
const IDS: [(&str, &str); 4] = [
    ("/v1/sandboxes/", "sbx"),
    ("/v1/snapshots/", "snap"),
    ("/v1/projects/", "prj"),
    ("/v1/keys/", "key"),
];

/// Content types whose body is a file.
const BYTES: [&str; 3] = ["application/octet-stream", "application/x-tar", "application/sql"];

/// How a text or a number is written.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// An absolute path in a sandbox.
    Path,
    /// A name for people.
    Name,
    TemplateName,
    /// The id of a database, or its name.
    Database,
    Size,
    /// At least one of a list.
    Some,
    Between(usize, usize),
    /// Rules of a policy.
    Rules,
    SecretName,
    SecretValue,
    /// Hosts of a secret.
    Hosts,
}

/// Every rule is of this form, and most of this form are rules.
const RULE: &str =
    "^(\\*|(\\*\\.)?[A-Za-z0-9._-]+(/[0-9]{1,2})?)(:[0-9]{1,5}(-[0-9]{1,5})?)?(/(tcp|udp))?$";

/// Every host of a secret is of this form, and most of this form are hosts.
const HOST: &str =
    "^(\\*\\.)?[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,20}){1,5}(:[1-9][0-9]{0,3})?$";

/// The fields of bodies that have a form.
const FIELDS: [(&str, &str, Form); 31] = [
    ("SetSecret", "value", Form::SecretValue),
    ("SetSecret", "hosts", Form::Hosts),
    ("CreateDatabase", "name", Form::Database),
    ("CreateDatabase", "size", Form::Size),
    (
        "CreateDatabase",
        "disk_mib",
        Form::Between(DATABASE_DISK_MIB_MIN as usize, DATABASE_DISK_MIB_MAX as usize),
    ),
    ("ForkDatabase", "name", Form::Database),
    ("ForkDatabase", "snapshot", Form::Database),
    ("CreateDatabaseSnapshot", "name", Form::Database),
    ("RestoreDatabase", "snapshot", Form::Database),
    ("QueryDatabase", "rows_max", Form::Between(1, QUERY_ROWS_MAX as usize)),
    ("QueryDatabase", "timeout_ms", Form::Between(1, QUERY_TIMEOUT_MS_MAX as usize)),
    ("CreateSandbox", "name", Form::Name),
    ("CreateSandbox", "template", Form::TemplateName),
    ("CreateSandbox", "size", Form::Size),
    ("CreateSnapshot", "name", Form::Name),
    ("CreateKey", "name", Form::Name),
    ("CreateProject", "name", Form::Name),
    ("Fork", "name", Form::Name),
    ("Fork", "count", Form::Between(1, FORK_COUNT_MAX as usize)),
    ("ExecRequest", "argv", Form::Some),
    ("ExecRequest", "cwd", Form::Path),
    ("SpawnRequest", "argv", Form::Some),
    ("SpawnRequest", "cwd", Form::Path),
    ("SignalRequest", "signal", Form::Between(1, 64)),
    ("PtySize", "rows", Form::Between(1, PTY_SIDE_MAX as usize)),
    ("PtySize", "cols", Form::Between(1, PTY_SIDE_MAX as usize)),
    ("MakeDirectory", "path", Form::Path),
    ("MoveFile", "from", Form::Path),
    ("MoveFile", "to", Form::Path),
    ("Policy", "allow", Form::Rules),
    ("Policy", "deny", Form::Rules),
];

/// The parameters of queries that have one.
const QUERIES: [(&str, Form); 3] =
    [("path", Form::Path), ("template", Form::TemplateName), ("size", Form::Size)];

/// `document`, with the form of what has one.
pub(crate) fn with_forms(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        if CREATES.contains(&path.as_str())
            && let Some(create) = &mut item.post
        {
            happens_once(create);
        }
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                describe(path, parameter);
            }
            contents(operation).for_each(as_bytes);
        }
    }
    let schemas = &mut document.components.get_or_insert_default().schemas;
    for (name, field, form) in FIELDS {
        if let Some(RefOr::T(Schema::Object(object))) = schemas.get_mut(name)
            && let Some(RefOr::T(schema)) = object.properties.get_mut(field)
        {
            apply(form, schema);
        }
    }
    document
}

/// Says that a create takes an idempotency key, and how its answer tells that it was given before.
fn happens_once(create: &mut Operation) {
    // What a header carries that is text.
    let key = ObjectBuilder::new().schema_type(Type::String);
    let key = key.pattern(Some(format!("^[\\t -~]{{1,{KEY_BYTES_MAX}}}$")));
    let parameter = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some("Makes the same request with the same value happen once within a day"))
        .schema(Some(key));
    create.parameters.get_or_insert_default().push(parameter.build());
    let replayed = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"]));
    let replayed = HeaderBuilder::new()
        .schema(replayed)
        .description(Some("There when this answer was given before, to the same request"))
        .build();
    for (status, answer) in &mut create.responses.responses {
        if let ("201", RefOr::T(answer)) = (status.as_str(), answer) {
            answer.headers.insert(REPLAYED.to_owned(), replayed.clone());
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

/// What an operation takes and gives, by content type.
fn contents(operation: &mut Operation) -> impl Iterator<Item = (&String, &mut Content)> {
    let taken = operation.request_body.iter_mut().flat_map(|body| body.content.iter_mut());
    let answers = operation.responses.responses.values_mut().filter_map(|answer| match answer {
        RefOr::T(answer) => Some(answer.content.iter_mut()),
        RefOr::Ref(_) => None,
    });
    taken.chain(answers.flatten())
}

/// What is not text is bytes, not a list of numbers.
fn as_bytes((kind, content): (&String, &mut Content)) {
    if BYTES.contains(&kind.as_str()) {
        let bytes = ObjectBuilder::new().schema_type(Type::String);
        let binary = SchemaFormat::KnownFormat(KnownFormat::Binary);
        content.schema = Some(bytes.format(Some(binary)).into());
    }
}

fn describe(path: &str, parameter: &mut Parameter) {
    let name = parameter.name.as_str();
    let in_path = parameter.parameter_in == ParameterIn::Path;
    if in_path
        && name == "id"
        && let Some((_, prefix)) = IDS.iter().find(|(start, _)| path.starts_with(start))
    {
        let id = ObjectBuilder::new().schema_type(Type::String);
        let id = id.pattern(Some(format!("^{prefix}_[0-9a-f]{{16}}$")));
        parameter.schema = Some(id.into());
        return;
    }
    let form = match name {
        "id" | "database" | "snapshot" if in_path => Some(Form::Database),
        "name" if in_path && path.starts_with("/v1/secrets/") => Some(Form::SecretName),
        "name" if in_path => Some(Form::TemplateName),
        "size" if in_path => Some(Form::Size),
        _ if in_path => None,
        _ => QUERIES.iter().find(|(query, _)| *query == name).map(|(_, form)| *form),
    };
    if let (Some(form), Some(RefOr::T(schema))) = (form, &mut parameter.schema) {
        apply(form, schema);
    }
}

fn apply(form: Form, schema: &mut Schema) {
    match (form, schema) {
        (Form::Some, Schema::Array(list)) => list.min_items = Some(1),
        (Form::Rules, Schema::Array(list)) => {
            list.max_items = Some(POLICY_RULES_MAX);
            let rule = ObjectBuilder::new().schema_type(Type::String).pattern(Some(RULE));
            let rule = rule.max_length(Some(POLICY_RULE_BYTES_MAX));
            list.items = ArrayItems::RefOrSchema(Box::new(rule.into()));
        }
        (Form::Hosts, Schema::Array(list)) => {
            (list.min_items, list.max_items) = (Some(1), Some(SECRET_HOSTS_MAX));
            let host = ObjectBuilder::new().schema_type(Type::String).pattern(Some(HOST));
            list.items = ArrayItems::RefOrSchema(Box::new(host.into()));
        }
        (_, Schema::Object(object)) => apply_to_one(form, object),
        _ => {}
    }
}

fn apply_to_one(form: Form, object: &mut Object) {
    match form {
        Form::Path => {
            object.pattern = Some("^/[^\\u0000]*$".to_owned());
            object.max_length = Some(PATH_BYTES_MAX);
        }
        Form::Name => object.pattern = Some(format!("^[A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}}$")),
        Form::Database => {
            let more = NAME_BYTES_MAX - 1;
            object.pattern = Some(format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{more}}}$"));
        }
        Form::TemplateName => object.pattern = Some("^[a-z][a-z0-9-]{0,39}$".to_owned()),
        Form::Size => object.enum_values = Some(Size::ALL.map(|size| size.name().into()).to_vec()),
        Form::Between(least, most) => {
            object.minimum = Some(least.into());
            object.maximum = Some(most.into());
        }
        Form::SecretName => {
            object.pattern = Some(format!("^[A-Za-z0-9_-]{{1,{SECRET_NAME_BYTES_MAX}}}$"));
        }
        // Without a space at either end.
        Form::SecretValue => object.pattern = Some("^[!-~]([ -~]{0,8000}[!-~])?$".to_owned()),
        Form::Some | Form::Rules | Form::Hosts => {}
    }
}

#[cfg(test)]
mod test {
    use std::str::FromStr;

    use base_types::{KeyId, ProjectId, SandboxId, SnapshotId, TemplateName};

    use super::*;

    #[test]
    fn the_creates_that_happen_once_are_those_that_take_an_idempotency_key() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let creates = method == "post" && CREATES.contains(&path.as_str());
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let takes = parameters.filter(|parameter| parameter["name"] == "Idempotency-Key");
                assert_eq!(takes.count(), usize::from(creates), "{method} {path}");
                let answers = operation["responses"].as_object().unwrap();
                let marked =
                    answers.iter().filter(|(_, answer)| !answer["headers"][REPLAYED].is_null());
                let marked: Vec<_> = marked.map(|(status, _)| status.as_str()).collect();
                assert_eq!(marked, if creates { vec!["201"] } else { vec![] }, "{method} {path}");
                seen += usize::from(creates);
            }
        }
        assert_eq!(seen, CREATES.len());
    }

    #[test]
    fn every_place_in_a_path_has_a_form_and_it_is_the_one_that_is_parsed() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for operation in methods.as_object().unwrap().values() {
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                for parameter in parameters.filter(|parameter| parameter["in"] == "path") {
                    let schema = &parameter["schema"];
                    let numbered = schema["type"] == "integer";
                    let formed = schema["pattern"].is_string() || schema["enum"].is_array();
                    assert!(numbered || formed, "{path}: {parameter}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 30, "{seen}");
        let schemas = &document["components"]["schemas"];
        for (name, field, form) in FIELDS {
            let schema = &schemas[name]["properties"][field];
            let formed = ["pattern", "enum", "minItems", "maxItems", "maximum"]
                .iter()
                .any(|word| !schema[word].is_null());
            assert!(formed, "{name}.{field}, {form:?}: {schema}");
        }
        fn parses<T: FromStr>(prefix: &str) -> bool {
            format!("{prefix}_0123456789abcdef").parse::<T>().is_ok()
        }
        let [sandbox, snapshot, project, key] = IDS.map(|(_, prefix)| prefix);
        assert!(parses::<SandboxId>(sandbox) && parses::<SnapshotId>(snapshot));
        assert!(parses::<ProjectId>(project) && parses::<KeyId>(key));
        for (name, legal) in [("a", true), ("a-1", true), ("1a", false), ("A", false), ("", false)]
        {
            assert_eq!(name.parse::<TemplateName>().is_ok(), legal, "{name}");
        }
        let longest = "a".repeat(40);
        assert!(longest.parse::<TemplateName>().is_ok());
        assert!(format!("{longest}a").parse::<TemplateName>().is_err());
    }
}
