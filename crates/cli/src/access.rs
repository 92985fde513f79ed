//! Keys and projects.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use api_node::{ChangeProject, CreateKey, CreateProject, Key, Project, Quota, QuotaChange};
use base_types::{KeyId, ProjectId};
use client::Client;

use crate::args::{CreateKeyArgs, CreateProjectArgs, KeysCommand, ProjectsCommand, SetProjectArgs};
use crate::complaint::{End, advise};
use crate::duration::shown;
use crate::remove;
use crate::table::{columns, print, print_json};

/// `sandflare keys`
pub(crate) async fn keys(client: &Client, command: KeysCommand) -> Result<End> {
    match command {
        KeysCommand::Create(create) => key_create(client, create).await?,
        KeysCommand::Ls(format) => {
            let list = client.key_list().await?;
            if format.is_json() {
                print_json(&list)?;
            } else {
                let projects = client.project_list().await?.projects;
                print(&key_table(&list.keys, &projects, now()))?;
            }
        }
        KeysCommand::Rm(rm) => {
            let delete = async |id: &KeyId| Ok(client.key_delete(*id).await?);
            return remove::each(&rm.ids, rm.format, delete).await;
        }
    }
    Ok(End::Done)
}

async fn key_create(client: &Client, create: CreateKeyArgs) -> Result<()> {
    let CreateKeyArgs { name, project, role, expires_in, format } = create;
    let project = match project {
        Some(project) => Some(find(client, &project).await?),
        None => None,
    };
    let expires_in = expires_in.filter(|seconds| *seconds > 0);
    let expires_at_ms =
        expires_in.map(|seconds| millis(now() + Duration::from_secs(seconds.into())));
    let request = CreateKey { project, name, role: role.into(), expires_at_ms };
    let made = client.key_create(&request).await?;
    if format.is_json() {
        print_json(&made)
    } else {
        eprintln!("{}, shown only now:", made.facts.id);
        print(&format!("{}\n", made.secret))
    }
}

/// `sandflare projects`
pub(crate) async fn projects(client: &Client, command: ProjectsCommand) -> Result<End> {
    match command {
        ProjectsCommand::Create(create) => {
            let CreateProjectArgs { name, figures, format } = create;
            let quota = QuotaChange::from(figures).applied_to(Quota::default());
            let made = client.project_create(&CreateProject { name, quota }).await?;
            if format.is_json() {
                print_json(&made)?;
            } else {
                print(&format!("{}\n", made.id))?;
            }
        }
        ProjectsCommand::Set(SetProjectArgs { project, figures, format }) => {
            let id = find(client, &project).await?;
            let quota = QuotaChange::from(figures);
            let changed = client.project_change(id, &ChangeProject { quota }).await?;
            if format.is_json() {
                print_json(&changed)?;
            } else {
                print(&project_table(&[changed]))?;
            }
        }
        ProjectsCommand::Ls(format) => {
            let list = client.project_list().await?;
            if format.is_json() {
                print_json(&list)?;
            } else {
                print(&project_table(&list.projects))?;
            }
        }
        ProjectsCommand::Rm(rm) => {
            let delete = async |project: &String| {
                Ok(client.project_delete(find(client, project).await?).await?)
            };
            return remove::each(&rm.projects, rm.format, delete).await;
        }
    }
    Ok(End::Done)
}

/// The project with this id or name.
async fn find(client: &Client, text: &str) -> Result<ProjectId> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let projects = client.project_list().await?.projects;
    projects.iter().find(|project| project.name == text).map(|project| project.id).ok_or_else(
        || {
            advise(
                format!("there is no project `{text}`"),
                "list them with `sandflare projects ls`",
            )
        },
    )
}

/// `now` is the time since the Unix epoch.
fn key_table(keys: &[Key], projects: &[Project], now: Duration) -> String {
    let ago = |ms: u64| format!("{} ago", shown(now.saturating_sub(Duration::from_millis(ms))));
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let project = projects.iter().find(|project| project.id == key.project);
            [
                key.id.to_string(),
                key.name.clone(),
                project.map_or_else(|| key.project.to_string(), |project| project.name.clone()),
                key.role.to_string(),
                key.last_used_at_ms.map_or_else(|| "never".to_owned(), ago),
                match key.expires_at_ms {
                    None => "never".to_owned(),
                    Some(ms) if Duration::from_millis(ms) <= now => "expired".to_owned(),
                    Some(ms) => format!("in {}", shown(Duration::from_millis(ms) - now)),
                },
            ]
        })
        .collect();
    columns(["ID", "NAME", "PROJECT", "ROLE", "USED", "EXPIRES"], &rows)
}

fn project_table(projects: &[Project]) -> String {
    let figure = |figure: u64| match figure {
        api_node::QUOTA_MAX => "all".to_owned(),
        figure => figure.to_string(),
    };
    let rows: Vec<_> = projects
        .iter()
        .map(|project| {
            let Quota { sandboxes, vcpus, memory_mib, disk_mib, creates_per_minute, snapshots } =
                project.quota;
            [
                project.id.to_string(),
                project.name.clone(),
                figure(sandboxes),
                figure(vcpus),
                figure(memory_mib),
                figure(disk_mib),
                figure(creates_per_minute),
                figure(snapshots),
            ]
        })
        .collect();
    let head = [
        "ID",
        "NAME",
        "SANDBOXES",
        "VCPUS",
        "MEMORY MIB",
        "DISK MIB",
        "CREATES A MINUTE",
        "SNAPSHOTS",
    ];
    columns(head, &rows)
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
