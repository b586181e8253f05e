"""Plain torch modules: convolutions, RSSM, heads, distributions."""
