"""graphc.runtime: sessions, and the targets that execute programs and plans."""
