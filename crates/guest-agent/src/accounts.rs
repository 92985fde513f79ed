//! The guest's users and groups, from its own `/etc/passwd` and `/etc/group`.
//!
//! Read directly: the agent is static, so the C library's name service is not there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use api_guest::FailCode;

use crate::failure::Failure;

/// LIMIT: a file of users larger than this is not a real one.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// LIMIT: the kernel takes 65536; nobody has this many.
const GROUPS_MAX: usize = 1024;

/// A user a command can run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// What the two files said.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Accounts {
    /// Takes the lines that are well formed; others are as if they were not there.
    pub(crate) fn parse(passwd: &str, group: &str) -> Self {
        let users = passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1)?.to_owned();
            let shell = fields.next().unwrap_or_default().to_owned();
            Some(User { name, uid, gid, home, shell })
        });
        let groups = group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
            let gid = fields.nth(1)?.parse().ok()?;
            let members = fields.next().unwrap_or_default();
            let members =
                members.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some(Group { name, gid, members })
        });
        Self { users: users.collect(), groups: groups.collect() }
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    pub(crate) fn by_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|user| user.uid == uid)
    }

    pub(crate) fn group_name(&self, gid: u32) -> Option<&str> {
        self.groups.iter().find(|group| group.gid == gid).map(|group| group.name.as_str())
    }

    pub(crate) fn has_group(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.name == name)
    }

    /// The user by name or decimal id. An id without a name is a user too, at home in `/`.
    pub(crate) fn find(&self, name_or_uid: &str) -> Result<User, Failure> {
        if let Some(user) = self.by_name(name_or_uid) {
            return Ok(user.clone());
        }
        let digits = name_or_uid.bytes().all(|byte| byte.is_ascii_digit());
        // The highest number means "no change" to the kernel, so it is nobody.
        match name_or_uid.parse() {
            Ok(uid) if digits && uid != u32::MAX => {
                Ok(self.by_uid(uid).cloned().unwrap_or_else(|| User {
                    name: uid.to_string(),
                    uid,
                    gid: uid,
                    home: "/".to_owned(),
                    shell: "/bin/sh".to_owned(),
                }))
            }
            _ => {
                let shown: String = name_or_uid.chars().take(64).collect();
                Err(Failure::new(
                    FailCode::UnknownUser,
                    format!("the sandbox has no user `{shown}`"),
                ))
            }
        }
    }

    /// All groups of a user, its own first.
    pub(crate) fn groups_of(&self, user: &User) -> Vec<u32> {
        let member = |group: &&Group| group.members.contains(&user.name) && group.gid != user.gid;
        let others = self.groups.iter().filter(member).map(|group| group.gid);
        [user.gid].into_iter().chain(others).take(GROUPS_MAX).collect()
    }
}

/// The accounts, read again only when a file changed.
#[derive(Debug)]
pub(crate) struct AccountsCache {
    passwd: PathBuf,
    group: PathBuf,
    known: Mutex<Option<(Stamps, Arc<Accounts>)>>,
}

/// What tells that a file is as it was: inode, size, time of change (seconds and nanoseconds).
type Stamp = Option<(u64, u64, i64, i64)>;
type Stamps = (Stamp, Stamp);

impl AccountsCache {
    pub(crate) fn new(passwd: PathBuf, group: PathBuf) -> Self {
        Self { passwd, group, known: Mutex::new(None) }
    }

    /// The accounts as the files are now. A missing file has no lines.
    pub(crate) fn get(&self) -> Arc<Accounts> {
        let stamps = (stamp(&self.passwd), stamp(&self.group));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, accounts)) = known.as_ref()
            && *then == stamps
        {
            return Arc::clone(accounts);
        }
        let accounts = Arc::new(Accounts::parse(&read(&self.passwd), &read(&self.group)));
        *known = Some((stamps, Arc::clone(&accounts)));
        accounts
    }
}

fn stamp(path: &Path) -> Stamp {
    let data = fs::metadata(path).ok()?;
    Some((data.ino(), data.size(), data.ctime(), data.ctime_nsec()))
}

fn read(path: &Path) -> String {
    let small = fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() < FILE_BYTES_MAX);
    let bytes = if small { fs::read(path).unwrap_or_default() } else { Vec::new() };
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod test {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\nbroken:x:a:b\n\
                          agent:x:1000:1000:,,,:/home/agent:/bin/bash\nbare:x:7:8::/x:";
    const GROUP: &str = "root:x:0:\nagent:x:1000:agent\nsudo:x:27:root,agent\nodd:x:z:agent\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        let agent = accounts.find("agent").unwrap();
        assert_eq!(accounts.find("1000").unwrap(), agent);
        assert_eq!((agent.uid, agent.gid, agent.home.as_str()), (1000, 1000, "/home/agent"));
        assert_eq!(accounts.groups_of(&agent), [1000, 27]);
        assert_eq!(accounts.group_name(27), Some("sudo"));
    }

    #[test]
    fn a_number_without_a_name_is_a_user_and_a_wrong_name_is_not() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.find("4242").unwrap().home, "/");
        for wrong in ["", "broken", "+7", "-1", "4294967295", "99999999999"] {
            let failure = accounts.find(wrong).unwrap_err();
            assert_eq!(failure.code, FailCode::UnknownUser, "{wrong}");
        }
    }
}
