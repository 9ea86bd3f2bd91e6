"""The network: backbones, the behaviour model around them, the repeat head."""
