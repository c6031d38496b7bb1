# Build, install and package CBFS. `make help` tells the targets.
#
#   make && sudo make install                 into /usr/local
#   make install PREFIX=/usr DESTDIR=/tmp/x   into a tree for a package
#   make deb                                  a Debian package in target/

PREFIX     ?= /usr/local
DESTDIR    ?=
# mount(8) looks for its helpers there and nowhere else.
SBINDIR    ?= /sbin
SYSCONFDIR ?= /etc
CARGO      ?= cargo
# A build that is there already, such as CI's: `make install BUILD=` builds nothing.
BUILD      ?= build
PROGRAM    ?= $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/release/cbfsctl

bindir   = $(DESTDIR)$(PREFIX)/bin
sharedir = $(DESTDIR)$(PREFIX)/share
unitdir  = $(DESTDIR)$(if $(filter /usr /usr/,$(PREFIX)),/lib,$(SYSCONFDIR))/systemd/system
helper   = $(DESTDIR)$(SBINDIR)/mount.cbfs

pages1 = $(wildcard man/*.1)
pages5 = $(wildcard man/*.5)
pages8 = $(wildcard man/*.8)

.PHONY: all build install uninstall deb help
all: build

build: ## the release program
	$(CARGO) build --release --locked -p cbfsctl

install: $(BUILD) ## into $(DESTDIR)$(PREFIX)
	install -D -m 755 $(PROGRAM) $(bindir)/cbfsctl
	ln -sf cbfsctl $(bindir)/cbfsd
	ln -sf cbfsctl $(bindir)/cbfs-tui
	install -d $(dir $(helper))
	ln -sf $(PREFIX)/bin/cbfsctl $(helper)
	install -D -m 755 share/recover.sh $(sharedir)/cbfs/recover.sh
	install -D -m 644 share/cbfsd.toml $(sharedir)/cbfs/cbfsd.toml
	install -D -m 644 share/prometheus/alerts.yml $(sharedir)/cbfs/prometheus/alerts.yml
	install -D -m 644 share/grafana/cbfs.json $(sharedir)/cbfs/grafana/cbfs.json
	install -d $(unitdir)
	sed 's|/usr/bin/|$(PREFIX)/bin/|g' share/systemd/cbfsd.service > $(unitdir)/cbfsd.service
	chmod 644 $(unitdir)/cbfsd.service
	install -D -m 644 completions/cbfsctl.bash $(sharedir)/bash-completion/completions/cbfsctl
	install -D -m 644 completions/_cbfsctl $(sharedir)/zsh/site-functions/_cbfsctl
	install -D -m 644 completions/cbfsctl.fish $(sharedir)/fish/vendor_completions.d/cbfsctl.fish
	install -d $(sharedir)/man/man1 $(sharedir)/man/man8
	install -m 644 $(pages1) $(sharedir)/man/man1/
	install -m 644 $(pages8) $(sharedir)/man/man8/
	$(if $(pages5),install -d $(sharedir)/man/man5 && install -m 644 $(pages5) $(sharedir)/man/man5/)
	# What a person may have edited stays.
	test -e $(DESTDIR)$(SYSCONFDIR)/cbfs/cbfsd.toml || \
	  install -D -m 640 share/cbfsd.toml $(DESTDIR)$(SYSCONFDIR)/cbfs/cbfsd.toml
	test -e $(DESTDIR)$(SYSCONFDIR)/default/cbfsd || \
	  install -D -m 640 share/default/cbfsd $(DESTDIR)$(SYSCONFDIR)/default/cbfsd

uninstall: ## all of it but settings and the state directory
	rm -f $(bindir)/cbfsctl $(bindir)/cbfsd $(bindir)/cbfs-tui $(helper) $(unitdir)/cbfsd.service
	rm -f $(sharedir)/bash-completion/completions/cbfsctl $(sharedir)/zsh/site-functions/_cbfsctl
	rm -f $(sharedir)/fish/vendor_completions.d/cbfsctl.fish
	rm -f $(addprefix $(sharedir)/man/man1/,$(notdir $(pages1)))
	rm -f $(addprefix $(sharedir)/man/man5/,$(notdir $(pages5)))
	rm -f $(addprefix $(sharedir)/man/man8/,$(notdir $(pages8)))
	rm -rf $(sharedir)/cbfs
	@echo "left: $(SYSCONFDIR)/cbfs, $(SYSCONFDIR)/default/cbfsd, and the state directory (/var/lib/cbfs) with its data"

deb: $(BUILD) ## a Debian package in target/
	share/debian/build $(PROGRAM) $(or $(DEB),target)

help: ## this
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)
