"""Audits an endpoint over HTTP alone: does it tell one tenant what another one sent?"""
