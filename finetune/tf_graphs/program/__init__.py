"""A graph read from a file, as data: no session is opened here."""
