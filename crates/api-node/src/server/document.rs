//! What the document says of the places in paths, in one way for all operations.

use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema};
use utoipa::openapi::{OpenApi, PathItem, RefOr, Type};

use base_types::Size;

/// What an id in a path looks like, by what the path begins with.
const IDS: [(&str, &str); 4] = [
    ("/v1/sandboxes/", "sbx"),
    ("/v1/snapshots/", "snap"),
    ("/v1/projects/", "prj"),
    ("/v1/keys/", "key"),
];

/// `document`, with the form of every id, size and template name in a path.
pub(crate) fn with_places(mut document: OpenApi) -> OpenApi {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                describe(path, parameter);
            }
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn describe(path: &str, parameter: &mut Parameter) {
    if parameter.parameter_in != ParameterIn::Path {
        return;
    }
    let text = ObjectBuilder::new().schema_type(Type::String);
    let place = match parameter.name.as_str() {
        "id" => {
            let Some((_, prefix)) = IDS.iter().find(|(start, _)| path.starts_with(start)) else {
                return;
            };
            text.pattern(Some(format!("^{prefix}_[0-9a-f]{{16}}$")))
        }
        "name" => text.pattern(Some("^[a-z][a-z0-9-]{0,39}$")),
        "size" => text.enum_values(Some(Size::ALL.map(Size::name))),
        _ => return,
    };
    parameter.schema = Some(RefOr::T(Schema::Object(place.build())));
}

#[cfg(test)]
mod test {
    use std::str::FromStr;

    use base_types::{KeyId, ProjectId, SandboxId, SnapshotId, TemplateName};

    use super::*;

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
