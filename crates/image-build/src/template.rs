//! Root images of templates: a small Debian from signed packages, as one ext4 file that comes out the same every
//! time the same packages go in.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use base_types::TemplateName;
use serde::{Deserialize, Serialize};

use crate::cache::{self, Key, Keys};
use crate::command;
use crate::debian::{Mirror, SUITE};
use crate::ensure::TEMPLATE_WORKING;
use crate::error::{BuildError, OnFile as _};
use crate::progress::{Outcome, Progress};

/// `templates/<name>/manifest.json`: what a root image is and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateManifest {
    /// The template's name.
    pub name: TemplateName,
    /// The Debian suite it was built from.
    pub suite: String,
    /// Size of `root.ext4` in bytes, holes included.
    pub root_bytes: u64,
    /// BLAKE3 of `root.ext4`, lowercase hex.
    pub root_blake3: String,
    /// Commands to run in a fresh machine, as user `agent`, before its snapshot is taken.
    pub warm: Vec<Vec<String>>,
    /// Programs that run in the snapshot and in every machine made from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceManifest>,
    /// Every Debian package inside, by name.
    pub packages: Vec<Package>,
}

/// A program that is started before the snapshot, and again whenever it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceManifest {
    /// The user it runs as.
    pub user: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Commands to run before it, as root.
    pub before: Vec<Vec<String>>,
    /// Run as root until it ends well: then the service is ready.
    pub ready: Vec<String>,
    /// Commands to run when all services are ready, as root.
    pub after: Vec<Vec<String>>,
    /// Commands to run, as root, in the clone that shows what a clone touches first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub touch: Vec<Vec<String>>,
}

/// One Debian package in a root image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What a template is made from.
struct Recipe {
    name: &'static str,
    packages: &'static str,
    root_bytes: u64,
    /// Whether what is in some of its directories can be limited.
    project_quota: bool,
    /// What building takes at its fullest, in MiB: the tree, the archive of it and the image of that.
    build_mib: u64,
    warm: &'static [&'static [&'static str]],
    /// What makes a root image this one, where packages do not: run on it before [`FINISH`].
    script: Option<&'static str>,
    services: &'static [Service],
}

/// A service, as a recipe has it; each word is a program without arguments.
struct Service {
    user: &'static str,
    program: &'static str,
    before: &'static [&'static str],
    ready: &'static str,
    after: &'static [&'static str],
    touch: &'static [&'static str],
}

impl Service {
    fn manifest(&self) -> ServiceManifest {
        let argv = |&program: &&str| vec![program.to_owned()];
        ServiceManifest {
            user: self.user.to_owned(),
            argv: argv(&self.program),
            before: self.before.iter().map(argv).collect(),
            ready: argv(&self.ready),
            after: self.after.iter().map(argv).collect(),
            touch: self.touch.iter().map(argv).collect(),
        }
    }
}

const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "agent",
        packages: include_str!("../templates/agent.list"),
        root_bytes: 4 << 30,
        project_quota: false,
        build_mib: 3072,
        warm: &[
            &["python3", "-c", "import numpy, pandas, matplotlib.pyplot"],
            &["sh", "-c", "git --version && curl --version"],
        ],
        script: None,
        services: &[],
    },
    Recipe {
        name: "base",
        packages: include_str!("../templates/base.list"),
        root_bytes: 1 << 30,
        project_quota: false,
        build_mib: 512,
        warm: &[],
        script: None,
        services: &[],
    },
    Recipe {
        name: "postgres",
        packages: include_str!("../templates/postgres.list"),
        root_bytes: 8 << 30,
        project_quota: true,
        build_mib: 1536,
        warm: &[],
        script: Some(include_str!("../templates/postgres.sh")),
        services: &[
            Service {
                user: "root",
                program: "/usr/lib/sandflare/postgres-run",
                before: &["/usr/lib/sandflare/postgres-begin"],
                ready: "/usr/lib/sandflare/postgres-ready",
                after: &[],
                touch: &["/usr/lib/sandflare/postgres-touch"],
            },
            Service {
                user: "postgres",
                program: "/usr/lib/sandflare/pgbouncer-run",
                before: &[],
                ready: "/usr/lib/sandflare/pgbouncer-ready",
                after: &[],
                touch: &[],
            },
            Service {
                user: "postgres",
                program: "/usr/lib/sandflare/node-pool-run",
                before: &[],
                ready: "/usr/lib/sandflare/node-pool-ready",
                after: &["/usr/lib/sandflare/postgres-warm"],
                touch: &[],
            },
        ],
    },
];

/// The script of a recipe that has none.
const NO_SCRIPT: &str = "#!/bin/sh\n";
/// Runs in every root image before it is packed.
const FINISH: &str = include_str!("../templates/finish.sh");

/// Times in an image: the day trixie was released. Later files count as being from then.
const SOURCE_DATE_EPOCH: &str = "1754697600";

/// Fixed, so that the same files give the same bytes. Only ever one of each disk is in a machine.
const FILE_SYSTEM_ID: &str = "7c1f0a5e-6f5d-4b7e-9d0c-2a3b5e8f1d01";
const HASH_SEED: &str = "7c1f0a5e-6f5d-4b7e-9d0c-2a3b5e8f1d02";

/// Features by which a file system counts what each of its projects takes; whether that is limited is its guest's to say.
const PROJECT_QUOTA: &str = "quota,project";

const TOOLS_STEP: &str = "file system tools";

/// Makes sure the root image and manifest of template `name` are there and up to date.
pub(crate) fn ensure(
    templates: &Path,
    cache: &Path,
    keys: &Keys,
    name: &TemplateName,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let Some(recipe) = RECIPES.iter().find(|recipe| recipe.name == name.as_str()) else {
        let known: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
        return Err(BuildError::UnknownTemplate {
            template: name.to_string(),
            known: known.join(", "),
        });
    };
    let step = format!("template {name}");
    let directory = templates.join(recipe.name);
    let key = key(recipe);
    let key_name = format!("template-{name}");
    progress.begin(&step);
    let outputs = [directory.join("root.ext4"), directory.join("manifest.json")];
    if keys.holds(&key_name, &key, &[&outputs[0], &outputs[1]]) {
        progress.end(&step, Outcome::Reused);
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(BuildError::NotRoot { template: name.to_string() });
    }
    check_room(recipe, cache)?;
    keys.forget(&key_name)?;
    let advance = |fraction: f64| progress.advance(&step, fraction);
    let tools = Tools::ensure(cache, keys)?;
    advance(0.05);
    let work = tempfile::Builder::new()
        .prefix(TEMPLATE_WORKING)
        .tempdir_in(cache)
        .on("write in", cache)?;
    let (tar, packages) = root_archive(recipe, work.path(), &advance)?;
    advance(0.85);
    let root = work.path().join("root.ext4");
    tools.make_ext4(&root, recipe.root_bytes, recipe.project_quota, &tar)?;
    advance(0.95);
    let manifest = TemplateManifest {
        name: name.clone(),
        suite: SUITE.to_owned(),
        root_bytes: recipe.root_bytes,
        root_blake3: cache::hash_file(&root).on("read", &root)?,
        warm: recipe
            .warm
            .iter()
            .map(|command| command.iter().map(|&word| word.to_owned()).collect())
            .collect(),
        services: recipe.services.iter().map(Service::manifest).collect(),
        packages,
    };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| BuildError::Manifest { path: outputs[1].clone(), source })?;
    // The manifest goes first and comes last: an image without one is not a template.
    fs::create_dir_all(&directory).on("create", &directory)?;
    match fs::remove_file(&outputs[1]) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).on("remove", &outputs[1])?;
        }
        _ => {}
    }
    fs::rename(&root, &outputs[0]).on("write", &outputs[0])?;
    cache::replace(&outputs[1], &text)?;
    keys.record(&key_name, &key)?;
    progress.end(&step, Outcome::Built);
    Ok(())
}

fn check_room(recipe: &Recipe, cache: &Path) -> Result<(), BuildError> {
    let found = rustix::fs::statvfs(cache).map_err(std::io::Error::from).on("ask about", cache)?;
    let free_mib = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if free_mib >= recipe.build_mib {
        return Ok(());
    }
    Err(BuildError::DiskFull {
        template: recipe.name.to_owned(),
        path: cache.to_owned(),
        free_mib,
        needed_mib: recipe.build_mib,
    })
}

fn key(recipe: &Recipe) -> String {
    let mut key = Key::of("template");
    key.add("suite", SUITE);
    key.add("epoch", SOURCE_DATE_EPOCH);
    key.add("name", recipe.name);
    key.add("bytes", &recipe.root_bytes.to_string());
    if recipe.project_quota {
        key.add("features", PROJECT_QUOTA);
    }
    key.add("finish", FINISH);
    for package in package_names(recipe.packages) {
        key.add("package", package);
    }
    for word in recipe.warm.iter().flat_map(|command| command.iter().chain([&"\n"])) {
        key.add("warm", word);
    }
    key.add("script", recipe.script.unwrap_or_default());
    for service in recipe.services {
        let Service { user, program, before, ready, after, touch } = service;
        for (what, words) in [
            ("service", [*user, *program, *ready].as_slice()),
            ("before", *before),
            ("after", *after),
            ("touch", *touch),
        ] {
            for word in words {
                key.add(what, word);
            }
        }
    }
    key.finish()
}

/// The names in a list: one per line, `#` begins a comment.
fn package_names(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|name| !name.is_empty())
}

/// Installs the recipe's packages into an empty root and packs it; gives the archive and what is in it.
fn root_archive(
    recipe: &Recipe,
    work: &Path,
    advance: &dyn Fn(f64),
) -> Result<(PathBuf, Vec<Package>), BuildError> {
    let finish = work.join("finish.sh");
    let script = work.join("script.sh");
    for (path, content) in [(&finish, FINISH), (&script, recipe.script.unwrap_or(NO_SCRIPT))] {
        fs::write(path, content).on("write", path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).on("write", path)?;
    }
    let (tar, list) = (work.join("root.tar"), work.join("packages"));
    let names: Vec<&str> = package_names(recipe.packages).collect();
    let temporary = work.join("tmp");
    fs::create_dir(&temporary).on("create", &temporary)?;
    // Packages are unpacked as other users too.
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).on("write", &temporary)?;
    // In namespaces of its own: whatever it mounts and starts ends with it, even if it is killed.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"])
        .args(["--mode=root", "--variant=minbase", "--format=tar", "--components=main"])
        .arg("--aptopt=Apt::Install-Recommends \"false\"")
        // Documentation goes, licences stay.
        .args(
            ["man", "info", "locale", "doc"]
                .map(|kind| format!("--dpkgopt=path-exclude=/usr/share/{kind}/*")),
        )
        .arg("--dpkgopt=path-include=/usr/share/doc/*/copyright")
        .arg("--dpkgopt=path-include=/usr/share/locale/locale.alias")
        .arg(format!("--include={}", names.join(",")))
        .arg("--customize-hook=\"$SANDFLARE_SCRIPT\" \"$1\"")
        .arg("--customize-hook=\"$SANDFLARE_FINISH\" \"$1\"")
        .arg(SUITE)
        .arg(&tar)
        .args(Mirror::of_this_machine().sources().lines())
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .env("SANDFLARE_SCRIPT", &script)
        .env("SANDFLARE_FINISH", &finish)
        .env("SANDFLARE_SUITE", SUITE)
        .env("SANDFLARE_PACKAGES", &list)
        .env("TMPDIR", &temporary);
    let doing = format!("installing the packages of template {}", recipe.name);
    run_mmdebstrap(&mut command, &doing, &mut |line| {
        if let Some(fraction) = fraction_at(line) {
            advance(fraction);
        }
    })?;
    let text = fs::read_to_string(&list).on("read", &list)?;
    Ok((tar, parse_packages(&text)))
}

/// mmdebstrap is started through another program, so its absence must be found out beforehand.
fn run_mmdebstrap(
    command: &mut Command,
    doing: &str,
    each_line: &mut dyn FnMut(&str),
) -> Result<(), BuildError> {
    command::run(
        Command::new("mmdebstrap").arg("--version"),
        "mmdebstrap",
        "asking mmdebstrap",
        |_| {},
    )?;
    command::run(command, "util-linux", doing, each_line).map(drop)
}

/// How far mmdebstrap is when it says `line`; shares of the time seen on two cores.
fn fraction_at(line: &str) -> Option<f64> {
    let milestones = [
        ("I: running apt-get update", 0.06),
        ("I: downloading packages", 0.1),
        ("I: extracting archives", 0.15),
        ("I: installing essential", 0.2),
        ("I: installing remaining", 0.25),
        ("I: running --customize-hook", 0.55),
        ("I: cleaning package lists", 0.78),
        ("I: creating tarball", 0.8),
    ];
    milestones.iter().find(|(start, _)| line.starts_with(start)).map(|&(_, fraction)| fraction)
}

fn parse_packages(text: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = text
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(name, version)| Package { name: name.to_owned(), version: version.to_owned() })
        .collect();
    packages.sort_by(|left, right| left.name.cmp(&right.name));
    packages
}

/// The e2fsprogs of [`SUITE`]. The machine's own may be older than the release that made `mke2fs -d` reproducible
/// and taught it to read archives; these run from the cache with the libraries they were built for.
struct Tools {
    root: PathBuf,
}

impl Tools {
    fn ensure(cache: &Path, keys: &Keys) -> Result<Self, BuildError> {
        let root = cache.join("tools");
        let mut key = Key::of(TOOLS_STEP);
        key.add("suite", SUITE);
        let key = key.finish();
        let tools = Self { root };
        if keys.holds("tools", &key, &[&tools.root.join("usr/sbin/mke2fs")]) {
            return Ok(tools);
        }
        keys.forget("tools")?;
        if tools.root.exists() {
            fs::remove_dir_all(&tools.root).on("remove", &tools.root)?;
        }
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"])
            .args(["--mode=root", "--variant=extract", "--format=directory"])
            .args(["--include=e2fsprogs,libarchive13t64", SUITE])
            .arg(&tools.root)
            .args(Mirror::of_this_machine().sources().lines());
        run_mmdebstrap(&mut command, "downloading the file system tools", &mut |_| {})?;
        keys.record("tools", &key)?;
        Ok(tools)
    }

    /// Makes `file` an ext4 of `bytes` with the content of the archive `tar`.
    fn make_ext4(
        &self,
        file: &Path,
        bytes: u64,
        project_quota: bool,
        tar: &Path,
    ) -> Result<(), BuildError> {
        let sparse = File::create(file).on("write", file)?;
        sparse.set_len(bytes).on("write", file)?;
        drop(sparse);
        let mut command = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        // The file is all holes: inode tables are zero already, for mke2fs and for the guest's kernel.
        let mut extended =
            format!("hash_seed={HASH_SEED},lazy_itable_init=0,assume_storage_prezeroed=1");
        let mut features = Vec::new();
        if project_quota {
            features = vec!["-O", PROJECT_QUOTA];
            extended.push_str(",quotatype=prjquota");
        }
        command
            .arg("--library-path")
            .arg(self.root.join("usr/lib/x86_64-linux-gnu"))
            .arg(self.root.join("usr/sbin/mke2fs"))
            // No reserve for root: all room is the user's. A small journal: the disk is copy-on-write anyway.
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=16"])
            .args(features)
            .args(["-U", FILE_SYSTEM_ID, "-E"])
            .arg(extended)
            .arg("-d")
            .args([tar, file])
            .env("MKE2FS_CONFIG", self.root.join("etc/mke2fs.conf"))
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH);
        command::run(&mut command, "e2fsprogs", "making the root file system", |_| {}).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_names_packages_once_and_nothing_else() {
        for recipe in &RECIPES {
            let names: Vec<&str> = package_names(recipe.packages).collect();
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(names.len(), unique.len(), "{}", recipe.name);
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            assert!(names.iter().all(|name| name.chars().all(plain)), "{names:?}");
        }
    }

    #[test]
    fn the_key_of_a_template_follows_its_recipe() {
        let [agent, base, postgres] = &RECIPES;
        assert_ne!(key(postgres), key(&Recipe { script: None, ..*postgres }));
        assert_ne!(key(postgres), key(&Recipe { services: &[], ..*postgres }));
        assert_eq!(key(agent), key(agent));
        assert_ne!(key(agent), key(base));
        let bigger = Recipe { root_bytes: base.root_bytes * 2, ..*base };
        assert_ne!(key(base), key(&bigger));
        let more = Recipe { packages: "passwd\nless\n", ..*base };
        assert_ne!(key(base), key(&more));
        let same = Recipe { packages: "passwd # a comment\n", ..*base };
        assert_eq!(key(base), key(&same));
    }

    #[test]
    fn packages_are_read_from_dpkgs_list() {
        let packages = parse_packages("zlib\t1.3\napt\t3.0.3\nbroken\n");
        let found: Vec<(&str, &str)> =
            packages.iter().map(|p| (p.name.as_str(), p.version.as_str())).collect();
        assert_eq!(found, [("apt", "3.0.3"), ("zlib", "1.3")]);
    }

    #[test]
    fn an_unknown_template_lists_the_known_ones() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::in_directory(directory.path().join("keys"));
        let name: TemplateName = "nonsense".parse().unwrap();
        let error = ensure(directory.path(), directory.path(), &keys, &name, &crate::Silent);
        assert_eq!(
            error.unwrap_err().to_string(),
            "there is no recipe for template `nonsense`; there are: agent, base, postgres"
        );
    }
}
