"""One worker per contender of `safekv bench tree`, each run by its contender's own Python."""
