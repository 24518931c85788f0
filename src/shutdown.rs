//! Stopping: the first SIGTERM or SIGINT asks, the second one ends the process at once.

use tokio::sync::watch;

/// Exit code after a second signal: 128 + SIGINT, as shells say it.
const INTERRUPTED: i32 = 130;

/// Tells when to stop. Clones tell the same.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts a [`Shutdown`].
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// A trigger and what it triggers.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Asks everybody to stop.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Whether it is time to stop.
    #[must_use]
    pub fn asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is time to stop. A trigger that is gone asks too.
    pub async fn wait(&mut self) {
        let _gone_means_asked = self.0.wait_for(|asked| *asked).await;
    }
}

/// Pulls the trigger at the first SIGTERM or SIGINT and ends the process at the second.
///
/// # Errors
/// The signals cannot be listened to.
pub fn listen(trigger: Trigger) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for round in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if round == 0 {
                trigger.pull();
            }
        }
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}
