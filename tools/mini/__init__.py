"""`mini`: a small open-vocabulary world that is drawn, not collected, and the whole method on it.

`world` says what there is, `drawing` and `scenes` make images with labels, `captions` says what a region shows,
`observer` writes the reasons, `dataset` puts everything into files and registers it.
"""
