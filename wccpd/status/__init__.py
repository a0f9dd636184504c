"""Status: one frozen tree (`view`), and its renderings for people (`text`) and programs (`document`, `control`)."""
