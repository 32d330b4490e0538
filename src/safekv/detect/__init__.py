"""May this be shared? Detector stages that veto, clear or abstain."""
