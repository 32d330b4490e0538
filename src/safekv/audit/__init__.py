"""Evidence that a deployment keeps its promises, gathered from outside or inside."""
