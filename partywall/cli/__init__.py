"""The `partywall` command."""
