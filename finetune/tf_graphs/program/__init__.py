"""A graph read from a file, as data. No session is opened here."""
