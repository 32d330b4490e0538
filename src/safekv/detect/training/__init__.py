"""How the token classifier is made: corpora, made-up text, network, recipe, export."""
