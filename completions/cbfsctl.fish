complete --keep-order --exclusive --command cbfsctl --arguments "(CBFSCTL_COMPLETE=fish cbfsctl -- (commandline --current-process --tokenize --cut-at-cursor) (commandline --current-token))"
