"""How much CPU channelkit costs a server, beside its peers.  Not installed: `python3 dev.py bench` runs it here."""
