"""Membership of a Quickwit cluster by gossip (chitchat): who is there, alive and ready.

Pure: codec (`wire`, `blocks`, `messages`), replicated state (`state`, `reconcile`), failure
detector (`detector`), who there is (`registry`) and the whole state machine (`cluster`). They have
no clock and no socket: `now` is an argument, and datagrams go in and come out as bytes. Around
them: `agent` and `seeds`.

Gossip has no authentication. What a spoofed datagram can do is bounded (`limits`), not prevented.
"""
