//! Promotion: the daemon says what it would do, a person reads it and types the handle.

use super::{actions, say};
use crate::dialog::{Dialog, Purpose};
use crate::figures::date_and_time;
use crate::message::Effect;
use crate::state::{Overlay, State};
use cbfs_core::api::{PromotionInfo, Role, Severity};
use cbfs_core::ids::Epoch;

/// Ask the daemon of the selected instance what a promotion would do.
pub(super) fn plan(state: &mut State) -> Vec<Effect> {
    let Some((daemon, id)) = actions::selected(state) else {
        return Vec::new();
    };
    let Some(info) = state.watched(&(daemon, id)).map(|w| w.info.clone()) else {
        return Vec::new();
    };
    if info.role == Role::Master {
        let text = format!("{} is a master already: select a slave", info.fs.tag);
        say(state, Severity::Warning, text);
        return Vec::new();
    }
    // The epoch that the person sees: if another has taken over meanwhile, the daemon refuses.
    let look = state.selected_look();
    let Some(previous) = look
        .and_then(|l| l.view.epochs.last())
        .map(|e| e.claim.epoch)
    else {
        let text = "who is master is not known yet: its bucket was not read";
        say(state, Severity::Warning, text);
        return Vec::new();
    };
    if !actions::answers(state, daemon) {
        return Vec::new();
    }
    say(state, Severity::Info, "asking what a promotion would do");
    vec![Effect::PlanPromotion(daemon, info.fs, previous)]
}

/// The answer: what may be lost, and a handle to type.
pub(super) fn ask(state: &mut State, daemon: usize, previous: Epoch, plan: &PromotionInfo) {
    if matches!(state.overlay, Some(Overlay::Dialog(_) | Overlay::Filter)) {
        return; // something else is being typed by now
    }
    let mut text = Vec::new();
    if let Some(former) = &plan.former {
        text.push(format!(
            "The master is {} (node {}), in epoch {} since {}.",
            former.host,
            former.node,
            former.epoch,
            date_and_time(&former.claimed_at)
        ));
    }
    if let Some(sign) = &plan.last_sign {
        text.push(format!("It was last heard of {}.", date_and_time(sign)));
    }
    if plan.looks_alive {
        text.push(
            "IT LOOKS ALIVE: it will be fenced, and what it has not published stays on its disk only."
                .to_owned(),
        );
    }
    text.push(match (&plan.base, &plan.base_created_at) {
        (Some(base), Some(made)) => format!(
            "This node goes on from snapshot {} of {}: what was done after that is LOST here.",
            base.number,
            date_and_time(made)
        ),
        _ => "There is no snapshot: this node begins with NOTHING.".to_owned(),
    });
    if let Some(mount_point) = &plan.mount_point {
        text.push(format!("{} turns read-write.", mount_point.display()));
    }
    let node = state
        .daemons
        .get(daemon)
        .map(|d| d.name())
        .unwrap_or_default();
    let title = format!(
        "Make {node} the master of {} (epoch {})",
        plan.fs.tag, plan.epoch
    );
    let purpose = Purpose::Promote(daemon, plan.fs.clone(), previous);
    let mut dialog = Dialog::new(purpose, title)
        .text(text)
        .confirmed_by(&plan.fs.to_string());
    dialog.destructive = true;
    state.overlay = Some(Overlay::Dialog(dialog));
}
