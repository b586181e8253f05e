"""Plain torch modules: RSSM, encoders, decoders, distributions."""
