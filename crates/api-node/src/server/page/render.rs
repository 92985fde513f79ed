//! The page, from the document.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use super::html::{Prose, Text};

/// LIMIT: how deep fields of fields are shown; what is deeper is named only.
const DEPTH_MAX: usize = 3;
/// Tags, in the order a newcomer needs them; others follow by name.
const TAGS: [&str; 10] = [
    "sandboxes",
    "processes",
    "files",
    "ports",
    "network",
    "snapshots",
    "templates",
    "access",
    "audit",
    "node",
];

/// The whole page. `document` is an OpenAPI document.
pub(super) fn page(document: &Value) -> String {
    let page = Page { document };
    let mut html = String::new();
    // Writing to a string does not fail.
    let _ = page.write(&mut html);
    html
}

struct Page<'a> {
    document: &'a Value,
}

struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    about: &'a Value,
}

impl Operation<'_> {
    fn anchor(&self) -> &str {
        self.about["operationId"].as_str().unwrap_or("operation")
    }

    fn summary(&self) -> &str {
        self.about["summary"].as_str().unwrap_or_default()
    }
}

impl<'a> Page<'a> {
    fn write(&self, html: &mut String) -> std::fmt::Result {
        let info = &self.document["info"];
        let title = info["title"].as_str().unwrap_or("API");
        let version = info["version"].as_str().unwrap_or_default();
        let groups = self.groups();
        write!(
            html,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\
             <link rel=\"icon\" href=\"data:,\"><link rel=\"stylesheet\" href=\"/docs/style.css\">\
             </head><body><a class=\"skip\" href=\"#content\">Skip to content</a>\
             <nav aria-label=\"Operations\"><a class=\"name\" href=\"#top\"><b>Sandflare</b> \
             <span>{version}</span></a>",
            title = Text(title),
            version = Text(version),
        )?;
        for (tag, operations) in &groups {
            write!(html, "<h2>{}</h2><ul>", Text(tag))?;
            for operation in operations {
                write!(
                    html,
                    "<li><a href=\"#{}\"><i class=\"{method}\">{short}</i>{}</a></li>",
                    Text(operation.anchor()),
                    Text(operation.summary()),
                    method = Text(operation.method),
                    short = Text(short(operation.method)),
                )?;
            }
            html.push_str("</ul>");
        }
        html.push_str("</nav><main id=\"content\">");
        self.write_head(html, title)?;
        for (tag, operations) in &groups {
            write!(html, "<h2 class=\"group\" id=\"tag-{0}\">{0}</h2>", Text(tag))?;
            for operation in operations {
                self.write_operation(html, operation)?;
            }
        }
        html.push_str("</main></body></html>\n");
        Ok(())
    }

    fn write_head(&self, html: &mut String, title: &str) -> std::fmt::Result {
        let about = self.document["info"]["description"].as_str().unwrap_or_default();
        write!(html, "<header id=\"top\"><h1>{}</h1>{}", Text(title), Prose(about))?;
        html.push_str(
            "<p>The same as a document for programs: <a href=\"/v1/openapi.json\">\
             openapi.json</a>. Keys go into the header <code>Authorization: Bearer sfk_…</code>; \
             a node that was started without keys wants none. Every answer that is not a success \
             has the same shape: a <code>code</code> for programs, a <code>message</code>, often a \
             <code>hint</code>, and the <code>request_id</code>.</p>\
             <pre><code>curl -H \"Authorization: Bearer $SANDFLARE_API_KEY\" \\\n     \
             -H 'content-type: application/json' -d '{}' \\\n     \
             $SANDFLARE_API_URL/v1/sandboxes</code></pre></header>",
        );
        Ok(())
    }

    fn write_operation(&self, html: &mut String, operation: &Operation<'_>) -> std::fmt::Result {
        let Operation { method, path, about } = operation;
        write!(
            html,
            "<section id=\"{anchor}\"><h3><a href=\"#{anchor}\">{}</a></h3>\
             <p class=\"route\"><i class=\"{method}\">{upper}</i><code>{}</code></p>",
            Text(operation.summary()),
            Text(path),
            anchor = Text(operation.anchor()),
            method = Text(method),
            upper = Text(&method.to_ascii_uppercase()),
        )?;
        if let Some(description) = about["description"].as_str() {
            write!(html, "{}", Prose(description))?;
        }
        self.write_parameters(html, about)?;
        let body = &about["requestBody"]["content"];
        for (kind, content) in body.as_object().into_iter().flatten() {
            write!(html, "<h4>Body <span>{}</span></h4>", Text(kind))?;
            self.write_schema(html, &content["schema"], 0)?;
        }
        for (status, response) in about["responses"].as_object().into_iter().flatten() {
            if status == "default" {
                continue;
            }
            let content = response["content"].as_object().and_then(|content| content.iter().next());
            let kind = content.map_or("", |(kind, _)| kind);
            let description = response["description"].as_str().unwrap_or_default();
            write!(
                html,
                "<h4>{} {} <span>{}</span></h4>",
                Text(status),
                Text(description),
                Text(kind),
            )?;
            if let Some((_, content)) = content {
                self.write_schema(html, &content["schema"], 0)?;
            }
        }
        html.push_str("</section>");
        Ok(())
    }

    fn write_parameters(&self, html: &mut String, about: &Value) -> std::fmt::Result {
        let Some(parameters) = about["parameters"].as_array().filter(|list| !list.is_empty())
        else {
            return Ok(());
        };
        html.push_str("<h4>Parameters</h4><dl>");
        for parameter in parameters {
            let required = parameter["required"].as_bool().unwrap_or(false);
            write!(
                html,
                "<dt><code>{}</code> <span>{}, {}{}</span></dt><dd>{}</dd>",
                Text(parameter["name"].as_str().unwrap_or_default()),
                Text(parameter["in"].as_str().unwrap_or_default()),
                Text(&self.type_of(&parameter["schema"])),
                if required { ", required" } else { "" },
                Prose(parameter["description"].as_str().unwrap_or_default()),
            )?;
        }
        html.push_str("</dl>");
        Ok(())
    }

    /// The fields of an object, or the type of anything else.
    fn write_schema(&self, html: &mut String, schema: &Value, depth: usize) -> std::fmt::Result {
        let schema = self.resolved(schema);
        let mut fields = BTreeMap::new();
        self.gather(schema, &mut fields);
        let variants = schema["oneOf"].as_array().filter(|_| fields.is_empty());
        if let Some(variants) = variants {
            html.push_str("<p class=\"or\">one of</p>");
            for variant in variants {
                self.write_schema(html, variant, depth)?;
            }
            return Ok(());
        }
        if fields.is_empty() {
            return write!(html, "<p class=\"plain\">{}</p>", Text(&self.type_of(schema)));
        }
        html.push_str("<dl>");
        for (name, field) in fields {
            let required = is_required(schema, name);
            write!(
                html,
                "<dt><code>{}</code> <span>{}{}</span></dt><dd>",
                Text(name),
                Text(&self.type_of(field)),
                if required { ", required" } else { "" },
            )?;
            let described = field["description"].as_str();
            let described = described.or_else(|| self.resolved(field)["description"].as_str());
            write!(html, "{}", Prose(described.unwrap_or_default()))?;
            let inner = self.inner(field);
            if depth + 1 < DEPTH_MAX && (has_fields(inner) || inner["oneOf"].is_array()) {
                html.push_str("<details><summary>fields</summary>");
                self.write_schema(html, inner, depth + 1)?;
                html.push_str("</details>");
            }
            html.push_str("</dd>");
        }
        html.push_str("</dl>");
        Ok(())
    }

    /// The fields of an object and of all it is made of.
    fn gather(&self, schema: &'a Value, fields: &mut BTreeMap<&'a str, &'a Value>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            fields.insert(name, field);
        }
        for part in schema["allOf"].as_array().into_iter().flatten() {
            self.gather(self.resolved(part), fields);
        }
    }

    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
        name.map_or(schema, |name| &self.document["components"]["schemas"][name])
    }

    /// What an array or a nullable field is of.
    fn inner(&self, schema: &'a Value) -> &'a Value {
        let schema = self.resolved(schema);
        if schema["items"].is_object() {
            return self.resolved(&schema["items"]);
        }
        let parts = schema["oneOf"].as_array().into_iter().flatten();
        let mut real = parts.filter(|part| part["type"] != "null");
        match (real.next(), real.next()) {
            (Some(only), None) => self.resolved(only),
            _ => schema,
        }
    }

    fn type_of(&self, schema: &Value) -> String {
        if let Some(path) = schema["$ref"].as_str() {
            let name = path.rsplit('/').next().unwrap_or_default();
            let values = values_of(&self.document["components"]["schemas"][name]);
            return values.unwrap_or_else(|| name.to_owned());
        }
        if let Some(values) = values_of(schema) {
            return values;
        }
        if schema["items"].is_object() {
            return format!("list of {}", self.type_of(&schema["items"]));
        }
        if let Some(parts) = schema["oneOf"].as_array() {
            let parts = parts.iter().filter(|part| part["type"] != "null");
            return parts.map(|part| self.type_of(part)).collect::<Vec<_>>().join(" or ");
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let kinds: Vec<&str> = kinds.into_iter().filter(|kind| *kind != "null").collect();
        if kinds.is_empty() { "anything".to_owned() } else { kinds.join(" or ") }
    }

    /// Operations by tag.
    fn groups(&self) -> Vec<(&'a str, Vec<Operation<'a>>)> {
        let mut groups: BTreeMap<(usize, &str), Vec<Operation<'_>>> = BTreeMap::new();
        for (path, methods) in self.document["paths"].as_object().into_iter().flatten() {
            for (method, about) in methods.as_object().into_iter().flatten() {
                let tag = about["tags"][0].as_str().unwrap_or("more");
                let place = TAGS.iter().position(|known| *known == tag).unwrap_or(TAGS.len());
                groups.entry((place, tag)).or_default().push(Operation { method, path, about });
            }
        }
        groups.into_iter().map(|((_, tag), operations)| (tag, operations)).collect()
    }
}

fn has_fields(schema: &Value) -> bool {
    schema["properties"].is_object() || schema["allOf"].is_array()
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|list| list.iter().any(|field| field == name))
}

/// The values of an enumeration, as it is written in a document.
fn values_of(schema: &Value) -> Option<String> {
    let one = |schema: &Value| {
        let values = schema["enum"].as_array()?.iter().filter_map(Value::as_str);
        // Never sent: it stands for what is newer than a client.
        let values = values.filter(|value| *value != "unknown");
        Some(values.collect::<Vec<_>>().join(" | "))
    };
    if let Some(values) = one(schema) {
        return Some(values);
    }
    let variants: Option<Vec<String>> = schema["oneOf"].as_array()?.iter().map(one).collect();
    variants.map(|values| values.join(" | ")).filter(|values| !values.is_empty())
}

/// A method in three letters.
fn short(method: &str) -> &str {
    match method {
        "delete" => "del",
        "patch" => "pat",
        "post" => "post",
        method => method,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_operation_is_on_the_page_and_nothing_comes_from_elsewhere() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let page = page(&document);
        for (path, methods) in document["paths"].as_object().unwrap() {
            assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
            for (_, operation) in methods.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap();
                assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
            }
        }
        for foreign in ["http://", "https://", "//", "<script", "style=\"", "onclick"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn what_a_document_says_is_text() {
        let document = serde_json::json!({
            "info": { "title": "<b>", "version": "\"" },
            "paths": { "/<img>": { "get": {
                "operationId": "\"><script>", "summary": "<script>", "description": "<script>",
                "responses": {},
            } } },
        });
        let page = page(&document);
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    }
}
