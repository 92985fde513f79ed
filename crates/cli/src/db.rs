//! Databases, and which sandboxes may use them. What gets one in is printed by `url`, and as JSON.

mod stats;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use api_node::{
    CreateDatabase, Database, DatabaseList, DatabaseListQuery, ForkDatabase, LIST_LIMIT_MAX,
    Outside, PASSWORD_BYTES_MAX, ParseRuleError, QUERY_ROWS_MAX, QueryAnswer, QueryDatabase,
    SQL_BYTES_MAX, SetOutside, SetPassword, WireDatabase, WireRole,
};
use client::Client;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use crate::args::{
    CreateDb, DbCommand, DbOutside, DbPassword, DbPsql, DbQuery, DbUrl, ForkDb, Format,
    PasswordOption, RestoreDb, WireDb,
};
use crate::audit::utc;
use crate::complaint::{End, advise};
use crate::db_snapshots;
use crate::duration::shown;
use crate::remove;
use crate::sandbox::plain;
use crate::table::{columns, on_one_line, print, print_json, table};

/// Copies a dump to standard output as it comes.
async fn dump(client: &Client, name: &str) -> Result<()> {
    let mut pieces = std::pin::pin!(client.database_dump(name).await?);
    let mut output = tokio::io::stdout();
    while let Some(piece) = pieces.next().await {
        output.write_all(&piece?).await.context("write the dump")?;
    }
    output.flush().await.context("write the dump")
}

/// What hosts end in that only sandboxes know.
const INSIDE: &str = ".db.internal";
/// The Postgres client.
const PSQL: &str = "psql";
/// A file that is none, but standard input.
const STDIN: &str = "-";

/// `sandflare db`
pub(crate) async fn db(client: &Client, command: DbCommand) -> Result<End> {
    match command {
        DbCommand::Create(args) => create(client, args).await?,
        DbCommand::Ls(format) => list(client, format).await?,
        DbCommand::Get(args) => {
            let database = client.database_get(&args.name).await?;
            if args.format.is_json() {
                print_json(&database)?;
            } else {
                print(&facts(&database))?;
            }
        }
        DbCommand::Stats(args) => stats::stats(client, &args).await?,
        DbCommand::Url(args) => url(client, &args).await?,
        DbCommand::Psql(args) => psql(client, &args).await?,
        DbCommand::Query(args) => query(client, args).await?,
        DbCommand::Wire(args) => wire(client, args).await?,
        DbCommand::Unwire(args) => {
            let unwire =
                async |name: &String| Ok(client.database_unwire(args.sandbox, name).await?);
            return remove::each(&[args.name], args.format, unwire).await;
        }
        DbCommand::Outside(args) => outside(client, args).await?,
        DbCommand::Fork(ForkDb { name, new, snapshot, password, format }) => {
            let request = ForkDatabase { name: new, password: password_of(&password)?, snapshot };
            made(&client.database_fork(&name, &request).await?, format)?;
        }
        DbCommand::Dump(args) => dump(client, &args.name).await?,
        DbCommand::Snapshot(args) => db_snapshots::take(client, args).await?,
        DbCommand::Snapshots(args) => db_snapshots::list(client, args).await?,
        DbCommand::RmSnapshot(args) => return db_snapshots::rm(client, args).await,
        DbCommand::Restore(RestoreDb { name, snapshot: Some(snapshot), format }) => {
            db_snapshots::go_back(client, &name, snapshot, format).await?;
        }
        DbCommand::Restore(args) => {
            let input = ReaderStream::new(tokio::io::stdin());
            client.database_restore(&args.name, input).await?;
            if args.format.is_json() {
                print_json(&serde_json::json!({ "restored": args.name }))?;
            }
        }
        DbCommand::Password(DbPassword { name, password, format }) => {
            let request = SetPassword { password: password_of(&password)? };
            made(&client.database_set_password(&name, &request).await?, format)?;
        }
        DbCommand::Rm(rm) => {
            let delete = async |name: &String| Ok(client.database_delete(name).await?);
            return remove::each(&rm.names, rm.format, delete).await;
        }
    }
    Ok(End::Done)
}

async fn create(client: &Client, args: CreateDb) -> Result<()> {
    let CreateDb { name, size, disk_mib, password, extension, seed, ttl, .. } = args;
    let CreateDb { idle_timeout, outside, exist_ok, format, .. } = args;
    let stdin = Some(Path::new(STDIN));
    if seed.as_deref() == stdin && password.password_file.as_deref() == stdin {
        return Err(advise(
            "standard input cannot be both the password and the seed",
            "give the name of a file for one of them",
        ));
    }
    let mut request = CreateDatabase::named(name);
    request.size = size;
    request.disk_mib = disk_mib;
    request.password = password_of(&password)?;
    if !extension.is_empty() {
        request.extensions = extension;
    }
    request.seed = seed.map(|seed| text_of(&seed, "seed", SQL_BYTES_MAX)).transpose()?;
    request.ttl_s = ttl.unwrap_or(request.ttl_s);
    request.idle_timeout_s = idle_timeout.unwrap_or(request.idle_timeout_s);
    request.outside = outside.unwrap_or_default();
    request.exist_ok = exist_ok;
    made(&client.database_create(&request).await?, format)
}

/// Prints what gets one in as JSON alone.
fn made(database: &Database, format: Format) -> Result<()> {
    if format.is_json() {
        return print_json(database);
    }
    let Database { id, name, .. } = database;
    eprintln!("its address, with the password: sandflare db url {name}");
    print(&format!("{id}\n"))
}

/// In as many pages as it takes.
async fn list(client: &Client, format: Format) -> Result<()> {
    let mut query = DatabaseListQuery { limit: Some(LIST_LIMIT_MAX), cursor: None };
    let mut databases = Vec::new();
    loop {
        let page = client.database_list(&query).await?;
        databases.extend(page.databases);
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    if format.is_json() {
        print_json(&DatabaseList { databases, next_cursor: None })
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print(&database_table(&databases, now))
    }
}

/// `now` is the time since the Unix epoch.
fn database_table(databases: &[Database], now: Duration) -> String {
    let rows: Vec<_> = databases
        .iter()
        .map(|database| {
            [
                database.id.to_string(),
                database.name.clone(),
                database.size.to_string(),
                shown(now.saturating_sub(Duration::from_millis(database.created_at_ms))),
                status(database),
            ]
        })
        .collect();
    columns(["ID", "NAME", "SIZE", "AGE", "STATUS"], &rows)
}

/// Its status, and why when it is over.
fn status(database: &Database) -> String {
    let status = database.status.as_str();
    match &database.reason {
        Some(reason) => format!("{status}: {}", plain(reason)),
        None => status.to_owned(),
    }
}

/// All but what gets one in.
fn facts(database: &Database) -> String {
    let Database { host, port, .. } = database;
    let extensions = match database.extensions.is_empty() {
        true => "-".to_owned(),
        false => database.extensions.join(", "),
    };
    let rows = [
        ("id", database.id.to_string()),
        ("name", database.name.clone()),
        ("status", status(database)),
        ("size", database.size.to_string()),
        (
            "disk limit",
            database.disk_mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib} MiB")),
        ),
        ("extensions", extensions),
        ("address", format!("{host}:{port}")),
        ("open to", database.outside.to_string()),
        ("user", database.user.clone()),
        ("database", database.database.clone()),
        ("made (UTC)", utc(database.created_at_ms)),
        ("deleted (UTC)", database.expires_at_ms.map_or_else(|| "never".to_owned(), utc)),
    ];
    columns(["WHAT", "VALUE"], &rows.map(|(what, value)| [what.to_owned(), value]))
}

async fn url(client: &Client, args: &DbUrl) -> Result<()> {
    let database = client.database_get(&args.name).await?;
    if args.format.is_json() {
        return print_json(&database);
    }
    if database.host.ends_with(INSIDE) {
        eprintln!("note: sandboxes alone reach it; --database-listen of the node is for others");
    } else if database.outside == Outside::Off {
        eprintln!("note: it is open to nobody but sandboxes; `sandflare db outside` changes that");
    }
    print(&format!("{}\n", address(&database, args.direct)?))
}

fn address(database: &Database, direct: bool) -> Result<&str> {
    let address = if direct { &database.direct_url } else { &database.url };
    address.as_deref().with_context(|| format!("the node keeps the address of `{}`", database.name))
}

/// Becomes psql, when all is well.
async fn psql(client: &Client, args: &DbPsql) -> Result<()> {
    let database = client.database_get(&args.name).await?;
    let mut command = Command::new(PSQL);
    command.arg("--dbname").arg(address_from_here(&database)?).args(&args.arguments);
    if let Some(password) = &database.password {
        // What is an argument is seen by everybody on this machine.
        command.env("PGPASSWORD", password);
    }
    let error = command.exec();
    if error.kind() == ErrorKind::NotFound {
        return Err(advise(
            "there is no `psql` on this machine",
            "install PostgreSQL's client, or use `sandflare db query`",
        ));
    }
    Err(error).context("run psql")
}

/// The address for a session from this machine, without the password.
fn address_from_here(database: &Database) -> Result<String> {
    if database.host.ends_with(INSIDE) {
        return Err(advise(
            format!("the node lets nobody but sandboxes connect to `{}`", database.name),
            "start it with `--database-listen`, such as `sandflare up -- --database-listen \
             127.0.0.1:5432`, or use `sandflare db query`",
        ));
    }
    if database.outside == Outside::Off {
        return Err(advise(
            format!("`{}` is open to nobody but sandboxes", database.name),
            format!(
                "say `sandflare db outside {} loopback`, or use `sandflare db query`",
                database.name
            ),
        ));
    }
    let address = address(database, true)?;
    let parts = address.split_once('@').and_then(|(user, place)| {
        let (scheme, user) = user.split_once("://")?;
        let (user, _) = user.split_once(':')?;
        Some(format!("{scheme}://{user}@{place}"))
    });
    parts.with_context(|| format!("the address of `{}` is none of Postgres", database.name))
}

async fn outside(client: &Client, args: DbOutside) -> Result<()> {
    let outside = args.who.join(",").parse().map_err(|error: ParseRuleError| {
        let hint = "say `off`, `loopback`, or networks, such as 10.0.0.0/8 2001:db8::/32";
        advise(error.to_string(), hint)
    })?;
    let database = client.database_set_outside(&args.name, &SetOutside { outside }).await?;
    if args.format.is_json() {
        return print_json(&database);
    }
    print(&format!("{}\n", database.outside))
}

async fn query(client: &Client, args: DbQuery) -> Result<()> {
    let DbQuery { name, sql, limit, timeout, format } = args;
    let sql = match sql.as_str() {
        STDIN => text_of(Path::new(STDIN), "SQL", SQL_BYTES_MAX)?,
        _ => sql,
    };
    let mut request = QueryDatabase { rows_max: limit, ..QueryDatabase::new(sql) };
    if let Some(timeout) = timeout {
        // No time that can be said is longer than a day.
        request.timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    }
    let answer = client.database_query(&name, &request).await?;
    if format.is_json() {
        return print_json(&answer);
    }
    if !answer.columns.is_empty() {
        print(&row_table(&answer))?;
    } else if let Some(rows) = answer.rows_affected {
        eprintln!("rows changed: {rows}");
    }
    if answer.truncated {
        eprintln!("note: there are more rows than these; --limit takes up to {QUERY_ROWS_MAX}");
    }
    Ok(())
}

fn row_table(answer: &QueryAnswer) -> String {
    let head = answer.columns.iter().map(|column| on_one_line(&column.name)).collect();
    let cell = |value: &Option<String>| value.as_deref().map_or("NULL".to_owned(), on_one_line);
    let rows: Vec<Vec<_>> = answer.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    table(head, &rows)
}

async fn wire(client: &Client, args: WireDb) -> Result<()> {
    let WireDb { sandbox, name, env, readonly, format } = args;
    let role = if readonly { WireRole::ReadOnly } else { WireRole::ReadWrite };
    let env = env.unwrap_or_else(|| WireDatabase::ENV_DEFAULT.to_owned());
    let wired = client.database_wire(sandbox, &name, &WireDatabase { env, role }).await?;
    if format.is_json() {
        return print_json(&wired);
    }
    // Their values have a password.
    print(&wired.env.keys().map(|name| format!("{name}\n")).collect::<String>())
}

fn password_of(option: &PasswordOption) -> Result<Option<String>> {
    let Some(file) = &option.password_file else { return Ok(None) };
    line_of(file, "password", PASSWORD_BYTES_MAX).map(Some)
}

/// As [`text_of`], without the end of the last line.
pub(crate) fn line_of(file: &Path, what: &str, bytes_max: usize) -> Result<String> {
    // LIMIT: the end of a line may come after it.
    let text = text_of(file, what, bytes_max + "\r\n".len())?;
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.unwrap_or(&text).to_owned())
}

/// What is in a file, or comes by standard input: at most `bytes_max`. `what` is for people.
fn text_of(file: &Path, what: &str, bytes_max: usize) -> Result<String> {
    let mut bytes = Vec::new();
    // One more shows that there is more.
    let limit = bytes_max as u64 + 1;
    if file == Path::new(STDIN) {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    }
    .with_context(|| format!("read the {what} from {}", file.display()))?;
    if bytes.len() > bytes_max {
        let message = format!("the {what} in {} is too long", file.display());
        return Err(advise(message, format!("use at most {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| {
        let message = format!("the {what} in {} is no text", file.display());
        advise(message, "write it in UTF-8")
    })
}

#[cfg(test)]
mod test {
    use api_node::{Column, DatabaseStatus};
    use base_types::{DatabaseId, Size};
    use expect_test::expect;

    use super::*;
    use crate::complaint;

    fn database(host: &str) -> Database {
        Database {
            id: DatabaseId::from_bits(7),
            name: "memory".into(),
            status: DatabaseStatus::Running,
            reason: None,
            size: Size::Nano,
            disk_mib: None,
            extensions: vec!["vector".into()],
            host: host.into(),
            port: 5432,
            outside: Outside::default(),
            user: "u1".into(),
            database: "main".into(),
            password: Some("hunter2:@".into()),
            url: Some(format!("postgresql://u1:hunter2%3A%40@{host}:5432/main")),
            direct_url: Some(format!("postgresql://u1.direct:hunter2%3A%40@{host}:5432/main")),
            created_at_ms: 1_000,
            expires_at_ms: None,
        }
    }

    #[test]
    fn databases_are_listed_with_why_they_failed() {
        let failed = Database {
            status: DatabaseStatus::Failed,
            reason: Some("its machine\nis gone".into()),
            ..database("127.0.0.1")
        };
        let list = [database("127.0.0.1"), failed];
        expect![[r#"
            ID                   NAME    SIZE  AGE        STATUS
            db_0000000000000007  memory  nano  1 min 4 s  running
            db_0000000000000007  memory  nano  1 min 4 s  failed: its machine\nis gone
        "#]]
        .assert_eq(&database_table(&list, Duration::from_secs(65)));
    }

    #[test]
    fn psql_gets_an_address_without_the_password_where_it_can_connect() {
        let address = address_from_here(&database("127.0.0.1")).unwrap();
        assert_eq!(address, "postgresql://u1.direct@127.0.0.1:5432/main");
        let refused = address_from_here(&database("memory.db.internal")).unwrap_err();
        expect![[r#"
            error: the node lets nobody but sandboxes connect to `memory`
            hint: start it with `--database-listen`, such as `sandflare up -- --database-listen 127.0.0.1:5432`, or use `sandflare db query`"#]]
        .assert_eq(&complaint::text(&refused));
        let shut = Database { outside: Outside::Off, ..database("127.0.0.1") };
        expect![[r#"
            error: `memory` is open to nobody but sandboxes
            hint: say `sandflare db outside memory loopback`, or use `sandflare db query`"#]]
        .assert_eq(&complaint::text(&address_from_here(&shut).unwrap_err()));
    }

    #[test]
    fn rows_are_shown_without_escape_codes_and_null_is_no_text() {
        let column = |name: &str| Column { name: name.into() };
        let answer = QueryAnswer {
            columns: vec![column("id"), column("note")],
            rows: vec![
                vec![Some("1".into()), Some("\u{1b}[2J\nend".into())],
                vec![Some("20".into()), None],
            ],
            truncated: false,
            rows_affected: Some(2),
        };
        expect![[r#"
            id  note
            1   \u{1b}[2J\nend
            20  NULL
        "#]]
        .assert_eq(&row_table(&answer));
    }
}
