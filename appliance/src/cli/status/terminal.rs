//! `status --watch` on a terminal, and without one.
//!
//! One thread asks the box each second; this one waits for keys, and draws. The terminal is as it was before however
//! the program ends: by a key, by SIGTERM, or by a panic.

use std::io::{IsTerminal as _, Stdout, stdout};
use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::crossterm::{cursor, execute};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::super::exit::Failure;
use super::screen::{Font, Screen};
use super::watch::{Seen, Watch};
use crate::io::probe::now_unix_s;

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long a key may be waited for while there is news.
const KEY_WAIT: Duration = Duration::from_millis(100);

/// What the asking thread says.
enum News {
    Answer(Box<Result<Seen, String>>),
    /// Somebody ends the program.
    Stop,
}

pub(super) fn watch(address: SocketAddr) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        return lines(address);
    }
    // A terminal that takes no orders shows lines.
    let Ok(guard) = Guard::take() else {
        return lines(address);
    };
    let (news, heard) = mpsc::channel();
    let asking = std::thread::Builder::new().name("watch".to_owned());
    asking
        .spawn(move || ask_on(address, &news))
        .map_err(|e| Failure::io("cannot start a thread", e))?;
    let shown = show(address, &heard, guard.font());
    drop(guard);
    shown.map_err(|e| Failure::io("cannot draw on the terminal", e))
}

/// A line each second, for a pipe or a file.
fn lines(address: SocketAddr) -> Result<(), Failure> {
    let started = Instant::now();
    let mut watch = Watch::new(address.to_string());
    super::super::runtime()?.block_on(async {
        let mut seconds = tokio::time::interval(ASK_EVERY);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            seconds.tick().await;
            let answer = super::look(address).await.map_err(|f| f.message);
            let unix_s = now_unix_s();
            watch.handle(started.elapsed(), unix_s, answer);
            super::super::show(&format!("{}\n", watch.line(unix_s)))?;
        }
    })
}

/// Asks until nobody listens.
fn ask_on(address: SocketAddr, news: &Sender<News>) {
    let Ok(runtime) = super::super::runtime() else {
        let _ = news.send(News::Stop);
        return;
    };
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).ok();
        let mut hang_up = signal(SignalKind::hangup()).ok();
        let mut seconds = tokio::time::interval(ASK_EVERY);
        seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stop = async || {
            tokio::select! {
                Some(()) = async { terminate.as_mut()?.recv().await } => {}
                Some(()) = async { hang_up.as_mut()?.recv().await } => {}
                else => std::future::pending().await,
            }
        };
        loop {
            let answer = async {
                seconds.tick().await;
                super::look(address).await.map_err(|f| f.message)
            };
            let heard = tokio::select! {
                answer = answer => News::Answer(Box::new(answer)),
                () = stop() => News::Stop,
            };
            let ends = matches!(heard, News::Stop);
            if news.send(heard).is_err() || ends {
                return;
            }
        }
    });
}

fn show(address: SocketAddr, heard: &Receiver<News>, font: Font) -> std::io::Result<()> {
    let started = Instant::now();
    let mut watch = Watch::new(address.to_string());
    let mut terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
    loop {
        let now_unix_s = now_unix_s();
        terminal.draw(|frame| {
            let screen = Screen {
                watch: &watch,
                now_unix_s,
                font,
            };
            frame.render_widget(screen, frame.area());
        })?;
        if !wait(&mut watch, heard, started)? {
            return Ok(());
        }
    }
}

/// Waits for a reason to draw. False: somebody leaves.
fn wait(watch: &mut Watch, heard: &Receiver<News>, started: Instant) -> std::io::Result<bool> {
    loop {
        if event::poll(KEY_WAIT)? {
            match event::read()? {
                Event::Key(key) if leaves(key) => return Ok(false),
                Event::Resize(..) => return Ok(true),
                _ => {}
            }
        }
        match heard.try_recv() {
            Ok(News::Answer(answer)) => {
                watch.handle(started.elapsed(), now_unix_s(), *answer);
                return Ok(true);
            }
            Ok(News::Stop) | Err(mpsc::TryRecvError::Disconnected) => return Ok(false),
            Err(mpsc::TryRecvError::Empty) => {}
        }
    }
}

fn leaves(key: KeyEvent) -> bool {
    let interrupts =
        key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    let asks = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    key.kind != KeyEventKind::Release && (interrupts || asks)
}

/// The terminal, taken; given back when dropped.
struct Guard {
    console: bool,
}

impl Guard {
    fn take() -> std::io::Result<Self> {
        // The kernel's own console has no second screen and a font of few characters.
        let console = std::env::var_os("TERM").is_some_and(|term| term == "linux");
        enable_raw_mode()?;
        let guard = Self { console };
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back(&mut stdout(), console);
            before(info);
        }));
        if !console {
            execute!(stdout(), EnterAlternateScreen)?;
        }
        // Here and not by the drawing library, which would ask the terminal where its cursor is: not every one answers.
        execute!(stdout(), Clear(ClearType::All), cursor::Hide)?;
        Ok(guard)
    }

    fn font(&self) -> Font {
        if self.console {
            Font::Console
        } else {
            Font::Full
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        give_back(&mut stdout(), self.console);
    }
}

/// Nobody can be told when this fails.
fn give_back(out: &mut Stdout, console: bool) {
    let _ = if console {
        execute!(
            out,
            Clear(ClearType::All),
            cursor::MoveTo(0, 0),
            cursor::Show
        )
    } else {
        execute!(out, LeaveAlternateScreen, cursor::Show)
    };
    let _ = disable_raw_mode();
}
