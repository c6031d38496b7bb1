//! A real terminal (tmux) for tests of what people see.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the screen may take to show something, on a busy machine and in debug.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the screen.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A terminal with a shell command in it; goes when dropped.
#[derive(Debug)]
pub struct Terminal {
    socket: PathBuf,
}

impl Terminal {
    /// Run `command` in a terminal of this size, with these variables.
    pub fn run(
        socket: PathBuf,
        size: (u16, u16),
        environment: &[(&str, &Path)],
        command: &str,
    ) -> Terminal {
        let terminal = Terminal { socket };
        let mut tmux = terminal.tmux();
        tmux.args(["-f", "/dev/null", "new-session", "-d"]);
        tmux.args(["-x", &size.0.to_string(), "-y", &size.1.to_string()]);
        tmux.arg(command);
        tmux.env("LC_ALL", "C.UTF-8").env_remove("NO_COLOR");
        tmux.envs(environment.iter().copied());
        let done = tmux.output().expect("tmux");
        assert!(done.status.success(), "{done:?}");
        terminal
    }

    /// tmux, talking to this one's server.
    pub fn tmux(&self) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(&self.socket).stdin(Stdio::null());
        tmux
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.captured(&[])
    }

    /// What is on the screen, with the escape sequences of its colours.
    pub fn coloured_screen(&self) -> String {
        self.captured(&["-e"])
    }

    fn captured(&self, options: &[&str]) -> String {
        let mut tmux = self.tmux();
        tmux.args(["capture-pane", "-p"]).args(options);
        let out = tmux.output().expect("tmux");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    /// Press keys, as tmux names them.
    pub fn press(&self, keys: &[&str]) {
        let done = self.tmux().args(["send-keys", "--"]).args(keys).status();
        assert!(done.expect("tmux").success());
    }

    /// Send bytes as they are, as a terminal does that reports something.
    pub fn send(&self, bytes: &str) {
        let done = self.tmux().args(["send-keys", "-l", "--", bytes]).status();
        assert!(done.expect("tmux").success());
    }

    /// Wait until the screen fulfils `wanted`.
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(started.elapsed() < PATIENCE, "no {what} on\n{screen}");
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Wait until the screen has this text.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_until(&format!("{text:?}"), |screen| screen.contains(text))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended already, perhaps.
        let _ = self
            .tmux()
            .arg("kill-server")
            .stderr(Stdio::null())
            .status();
    }
}
