use crate::sandbox::{json, text};
use crate::sandflare::Sandflare;

#[tokio::test]
async fn an_address_can_be_opened_as_it_is_printed() {
    let sandflare = Sandflare::new().await;
    let id = text(&sandflare.output(&["create"]).await);
    let at = sandflare.client().url().rsplit_once(':').unwrap().1.to_owned();
    let digits = id.strip_prefix("sbx_").unwrap();
    let facts = json(&sandflare.output(&["sandbox", "url", &id, "8000", "-o", "json"]).await);
    let token = facts["token"].as_str().unwrap();
    let host = format!("http://8000-{digits}.localhost:{at}");
    assert_eq!(facts["url"], host.as_str());
    let shown =
        async |args: &[&str]| text(&sandflare.output(&[args, &[&id, "8000"]].concat()).await);
    assert_eq!(shown(&["url"]).await, format!("{host}/?sandflare_token={token}"));
    assert_eq!(shown(&["url", "--public"]).await, format!("{host}/"));
    assert_eq!(shown(&["url"]).await, format!("{host}/"));
    let path = format!("http://127.0.0.1:{at}/v1/sandboxes/{id}/ports/8000/");
    assert_eq!(shown(&["url", "--path"]).await, path);
    let private = format!("{path}?sandflare_token={token}");
    assert_eq!(shown(&["sandbox", "url", "--private", "--path"]).await, private);
    for wrong in [&["url", &id, "0"][..], &["url", &id, "65536"], &["url", &id]] {
        assert_eq!(sandflare.output(wrong).await.status.code(), Some(1), "{wrong:?}");
    }
}
