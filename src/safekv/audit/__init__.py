"""Evidence that a deployment keeps its promises, gathered from inside and from outside."""
