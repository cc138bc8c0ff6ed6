"""Floor 0: nouns, artefact readers and writers, configuration, files, errors, run card, HTTP
client, release guard.
"""
