//! Deliberate mistakes. A model that does not catch them proves nothing.

/// One mistake in the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flaw {
    /// The promoter writes the snapshot as base that was the latest before its claim.
    BaseFromBeforeTheClaim,
    /// The master reports a snapshot complete without looking for a later epoch after its manifest.
    NoLookAfterTheManifest,
    /// A promotion that goes on believes in the base it found itself, not in the one that stands.
    BaseNotReadBack,
    /// Attempt ids are drawn before the cut: they do not say which content they stand for.
    AttemptBeforeCut,
    /// Numbers that were given up stay free.
    GapsStayOpen,
    /// A manifest replaces the one that stands under its name.
    ManifestsAreReplaced,
    /// Snapshots are deleted while a promotion is under way.
    DeleteDuringPromotion,
    /// A follower moves to the latest snapshot while a promotion is under way.
    FollowDuringPromotion,
    /// The collector does not wait after its first look.
    NoGrace,
    /// The collector does not mind a promotion that begins during its look.
    EpochMayChange,
    /// The collector takes objects without a manifest for those of a failed attempt.
    UnpublishedIsGarbage,
    /// The collector removes the manifests of deleted snapshots.
    ManifestsAreCollected,
}
