"""The web page: chat, studies, drafts, evaluations, review."""
