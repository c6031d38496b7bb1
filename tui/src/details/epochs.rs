//! The history of epochs.

use super::Page;
use crate::bucket_view::ViewKey;
use crate::figures::date_and_time;
use crate::panes::start;

pub(super) fn tell(page: &mut Page<'_>, key: &ViewKey) -> String {
    let view = page.view;
    let title = format!("Epochs of {}", key.fs);
    let Some(look) = view.state.buckets.get(key) else {
        page.gone("the file system");
        return title;
    };
    page.fact("bucket", &key.bucket);
    if let Some(error) = &look.error {
        page.styled_fact("last look", &error.message, view.theme.warning);
        for cause in &error.causes {
            page.styled_fact("", cause, view.theme.warning);
        }
    }
    let last = look.view.epochs.last().map(|e| e.claim.epoch);
    for epoch in look.view.epochs.iter().rev() {
        let claim = &epoch.claim;
        let present = Some(claim.epoch) == last;
        page.head(&format!(
            "Epoch {}: {}",
            claim.epoch,
            if present {
                "the present master"
            } else {
                "superseded"
            }
        ));
        page.fact("host", &claim.host);
        page.fact("node", &claim.node);
        page.fact("since", date_and_time(&claim.claimed_at));
        page.fact("began", start(epoch));
        let published = look
            .view
            .snapshots
            .iter()
            .filter(|s| s.epoch == claim.epoch);
        page.fact("snapshots", format!("{} of the lineage", published.count()));
    }
    title
}
