"""The verdict index: the warden of one engine core, in a process of its own."""
