//! Running one command: from the request to what is to be started.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use api_guest::{
    Answer, DEFAULT_USER, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Exec, Exited, FailCode,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::accounts::{Accounts, User};
use crate::agent::Agent;
use crate::connection::Connection;
use crate::failure::{Failure, Stop, reason};
use crate::launch::{LaunchError, Plan};
use crate::running::{Running, Streams};

/// What a Debian login gives, with the administrator's directories for everybody.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What terminals are when the request does not say: every emulator knows this one.
const TERM: &str = "xterm-256color";

/// Runs a command to its end.
pub(crate) fn exec(agent: &Agent, connection: &mut Connection, exec: &Exec) -> Result<(), Stop> {
    if exec.pty.is_some() {
        let message = "only a process that is spawned can have a terminal";
        return Err(Failure::new(FailCode::Unsupported, message).into());
    }
    let plan = plan(&agent.accounts.get(), &agent.settings.user, exec)?;
    let deadline = deadline(exec);
    let (streams, [child_stdin, child_stdout, child_stderr]) =
        pipes(agent, exec.stdin).map_err(no_streams)?;
    let ends = [child_stdin.as_fd(), child_stdout.as_fd(), child_stderr.as_fd()];
    match agent.children.launch(&plan, ends) {
        Ok(child) => {
            // As long as the agent holds them open, it would not see the command close them.
            drop((child_stdin, child_stdout, child_stderr));
            Running::new(connection, child, streams, deadline)?.run()
        }
        Err(error) => {
            let (code, line) = not_launched(exec, &plan, error)?;
            connection.send(&Answer::Stderr(line.into_bytes()))?;
            let (code, signal) = (Some(code), None);
            connection.send(&Answer::Exited(Exited { code, signal, timed_out: false }))
        }
    }
}

/// When the command is to be killed.
pub(crate) fn deadline(exec: &Exec) -> Option<Instant> {
    exec.time_limit_ms.and_then(|limit| Instant::now().checked_add(Duration::from_millis(limit)))
}

pub(crate) fn no_streams(error: Errno) -> Failure {
    Failure::of("cannot make the command's streams", error)
}

/// The agent's ends of a command's streams, and the command's. Only the agent's do not wait.
pub(crate) fn pipes(agent: &Agent, stdin: bool) -> Result<(Streams, [OwnedFd; 3]), Errno> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC);
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    let (child_stdin, stdin) = if stdin {
        let (read, write) = pipe()?;
        (read, Some(write))
    } else {
        (rustix::io::fcntl_dupfd_cloexec(&agent.nothing, 3)?, None)
    };
    for end in [Some(&stdout), Some(&stderr), stdin.as_ref()].into_iter().flatten() {
        rustix::io::ioctl_fionbio(end, true)?;
    }
    Ok((Streams { stdin, stdout, stderr }, [child_stdin, child_stdout, child_stderr]))
}

/// Makes of the request what the kernel is to be asked for.
pub(crate) fn plan(accounts: &Accounts, default_user: &str, exec: &Exec) -> Result<Plan, Failure> {
    let user = accounts.find(exec.user.as_deref().unwrap_or(default_user))?;
    let Some(program) = exec.argv.first().filter(|program| !program.is_empty()) else {
        return Err(Failure::invalid("the command is empty"));
    };
    let mut env = environment(&user, &exec.env)?;
    if exec.pty.is_some() && !env.iter().any(|(name, _)| *name == "TERM") {
        env.push(("TERM", TERM));
    }
    let path =
        env.iter().find_map(|(name, value)| (*name == "PATH").then_some(*value)).unwrap_or(PATH);
    let home = if user.home.starts_with('/') { user.home.as_str() } else { "/" };
    let cwd = match exec.cwd.as_deref() {
        Some(cwd) if cwd.starts_with('/') => cwd.to_owned(),
        Some(cwd) => format!("{home}/{cwd}"),
        None => home.to_owned(),
    };
    Ok(Plan {
        programs: programs(program, path).map(c_string).collect::<Result<_, _>>()?,
        argv: exec.argv.iter().cloned().map(c_string).collect::<Result<_, _>>()?,
        env: env
            .iter()
            .map(|(name, value)| c_string(format!("{name}={value}")))
            .collect::<Result<_, _>>()?,
        cwd: c_string(cwd)?,
        uid: user.uid,
        gid: user.gid,
        groups: accounts.groups_of(&user),
        terminal: exec.pty.is_some(),
    })
}

/// The default environment with the request's added, the last of a name winning.
fn environment<'a>(
    user: &'a User,
    added: &'a [(String, String)],
) -> Result<Vec<(&'a str, &'a str)>, Failure> {
    let mut env = vec![
        ("PATH", PATH),
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", if user.shell.is_empty() { "/bin/sh" } else { &user.shell }),
        ("LANG", "C.UTF-8"),
    ];
    for (name, value) in added {
        if name.is_empty() || name.contains('=') {
            let message = "a variable of the environment has an empty name or one with `=`";
            return Err(Failure::invalid(message));
        }
        match env.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = value,
            None => env.push((name, value)),
        }
    }
    Ok(env)
}

/// The files a program's name may stand for, in the order to try them.
fn programs<'a>(program: &'a str, path: &'a str) -> impl Iterator<Item = String> + 'a {
    let direct = program.contains('/').then(|| program.to_owned());
    let searched = path
        .split(':')
        .filter(|_| !program.contains('/'))
        // An empty part of PATH is the working directory, as POSIX has it.
        .map(move |part| format!("{}/{program}", if part.is_empty() { "." } else { part }));
    direct.into_iter().chain(searched)
}

fn c_string(text: String) -> Result<CString, Failure> {
    CString::new(text).map_err(|_| {
        Failure::invalid("the command, its environment or its directory holds a zero byte")
    })
}

/// A program that cannot be run is the command's failure and told like a shell would; all else is the
/// request's.
/// Gives the exit code and the line on standard error.
pub(crate) fn not_launched(
    exec: &Exec,
    plan: &Plan,
    error: LaunchError,
) -> Result<(i32, String), Failure> {
    let program = exec.argv.first().map_or("", String::as_str);
    let shown: String = program.chars().take(256).collect();
    let (code, why) = match error {
        LaunchError::Clone(error) => {
            let failure = Failure::of(format!("cannot start `{shown}`"), error);
            return Err(Failure::new(FailCode::OutOfResources, failure.message));
        }
        LaunchError::User(error) => {
            let user = exec.user.as_deref().unwrap_or(DEFAULT_USER);
            return Err(Failure::of(format!("cannot become user `{user}`"), error));
        }
        LaunchError::Directory(error) => {
            let cwd = plan.cwd.to_string_lossy();
            return Err(Failure::of(format!("cannot enter directory `{cwd}`"), error));
        }
        LaunchError::Program(Errno::TOOBIG) => {
            return Err(Failure::invalid("the arguments and environment are too long"));
        }
        LaunchError::Program(Errno::NOENT | Errno::NOTDIR) if program.contains('/') => {
            (EXIT_NOT_FOUND, "no such file, or its interpreter is missing".to_owned())
        }
        LaunchError::Program(Errno::NOENT | Errno::NOTDIR) => {
            (EXIT_NOT_FOUND, "command not found".to_owned())
        }
        LaunchError::Program(Errno::NOEXEC) => {
            (EXIT_NOT_EXECUTABLE, "not a program (a script needs a #! line)".to_owned())
        }
        LaunchError::Program(error) => (EXIT_NOT_EXECUTABLE, reason(error)),
    };
    Ok((code, format!("sandflare: {shown}: {why}\n")))
}

#[cfg(test)]
mod test {
    use super::*;

    fn ask(argv: &[&str]) -> Exec {
        Exec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: Vec::new(),
            cwd: None,
            user: None,
            time_limit_ms: None,
            stdin: false,
            pty: None,
        }
    }

    fn plan_of(exec: &Exec) -> Result<Plan, Failure> {
        let accounts = Accounts::parse(
            "agent:x:1000:1000::/home/agent:/bin/bash",
            "agent:x:1000:\nextra:x:5:agent",
        );
        plan(&accounts, "agent", exec)
    }

    #[test]
    fn a_plan_is_a_login_in_small() {
        let mut exec = ask(&["ls", "-l"]);
        exec.env = vec![("LANG".into(), "C".into()), ("X".into(), "1".into())];
        let plan = plan_of(&exec).unwrap();
        let env: Vec<_> = plan.env.iter().map(|text| text.to_str().unwrap()).collect();
        assert!(env.contains(&"HOME=/home/agent") && env.contains(&"USER=agent"));
        assert!(env.contains(&"LANG=C") && env.contains(&"X=1"));
        assert!(!env.contains(&"LANG=C.UTF-8"));
        assert_eq!(plan.groups, [1000, 5]);
        assert_eq!(plan.cwd.to_str(), Ok("/home/agent"));
        assert_eq!(plan.programs[0].to_str(), Ok("/usr/local/sbin/ls"));
        assert_eq!(plan.programs.len(), 6);
    }

    #[test]
    fn the_path_searched_is_the_one_the_command_gets() {
        let mut exec = ask(&["x"]);
        exec.env = vec![("PATH".into(), "/a::/b".into())];
        let programs = plan_of(&exec).unwrap().programs;
        let programs: Vec<_> = programs.iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(programs, ["/a/x", "./x", "/b/x"]);
        exec.argv = vec!["./x".into()];
        assert_eq!(plan_of(&exec).unwrap().programs.len(), 1);
    }

    #[test]
    fn what_the_kernel_could_not_take_is_refused() {
        for argv in [&[][..], &[""], &["a\0b"]] {
            assert_eq!(plan_of(&ask(argv)).unwrap_err().code, FailCode::InvalidRequest);
        }
        for name in ["", "a=b", "a\0b"] {
            let mut exec = ask(&["x"]);
            exec.env = vec![(name.into(), "v".into())];
            assert_eq!(plan_of(&exec).unwrap_err().code, FailCode::InvalidRequest);
        }
        let mut exec = ask(&["x"]);
        exec.user = Some("nobody-here".into());
        assert_eq!(plan_of(&exec).unwrap_err().code, FailCode::UnknownUser);
    }
}
