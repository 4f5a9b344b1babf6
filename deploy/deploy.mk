# What leaves the house: binaries, Debian packages, container image, chart,
# SBOM. All of it lands in dist/. Included by the Makefile.

DIST      = dist
DEB_ARCHES = amd64 arm64 armhf
TOOLS     = $(BIN)/tools
NFPM      = $(TOOLS)/nfpm
EPOCH    := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# A Debian version begins with a digit.
DEB_VERSION = $(if $(filter 0 1 2 3 4 5 6 7 8 9,$(shell printf %.1s '$(VERSION)'))$(findstring .,$(VERSION)),$(VERSION),0.0.0~git.$(subst -,.,$(VERSION)))

# $(call need,PROGRAM,PACKAGE) ends the target where a program is missing.
need = command -v $(1) >/dev/null || { echo "$@ needs $(1), which is missing (Debian: apt install $(2))"; exit 1; }

.PHONY: tools release-binaries deb deb-lint deb-test units check-deploy deploy-tools-test qemu

tools: $(TOOLS)/.built ## build the tools of packaging into bin/tools

$(TOOLS)/.built: deploy/tools/go.mod deploy/tools/go.sum
	@mkdir -p $(TOOLS)
	$(GO) -C deploy/tools build -o $(CURDIR)/$(TOOLS)/ tool
	@touch $@

release-binaries: ## binaries as they are released, into dist/bin
	@GO='$(GO)' deploy/kong/apply.sh $(DIST)/kong
	@for arch in $(DEB_ARCHES); do \
		echo "$(DIST)/bin/linux-$$arch"; \
		case $$arch in armhf) goarch=arm ;; *) goarch=$$arch ;; esac; \
		mkdir -p $(DIST)/bin/linux-$$arch && \
		for name in agent hub; do \
			GOOS=linux GOARCH=$$goarch GOARM=7 $(GO) build -trimpath -buildvcs=false -modfile $(DIST)/kong/go.mod -ldflags '$(LDFLAGS)' -o $(DIST)/bin/linux-$$arch/sapflow-$$name ./$$name || exit 1; \
		done; \
	done

deb: tools release-binaries ## Debian packages of the agent for amd64, arm64 and armhf, into dist/
	@mkdir -p $(DIST)/deb
	@printf 'sapflow-agent (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md at the home page.\n\n -- Sapflow <maintainers@sapflow.example>  %s\n' \
		'$(DEB_VERSION)' "$$(date -u -R -d @$(EPOCH))" | gzip -9n >$(DIST)/deb/changelog.gz
	@gzip -9nc deploy/deb/sapflow-agent.1 >$(DIST)/deb/sapflow-agent.1.gz
	@for arch in $(DEB_ARCHES); do \
		DEB_ARCH=$$arch DEB_VERSION='$(DEB_VERSION)' SOURCE_DATE_EPOCH=$(EPOCH) \
			$(NFPM) package -f deploy/deb/nfpm.yaml -p deb -t $(DIST)/sapflow-agent_$(DEB_VERSION)_$$arch.deb || exit 1; \
	done

deb-lint: deb ## lintian on the packages: no errors
	@$(call need,lintian,lintian)
	@for arch in $(DEB_ARCHES); do \
		lintian --fail-on error --tag-display-limit 0 --allow-root $(DIST)/sapflow-agent_$(DEB_VERSION)_$$arch.deb || exit 1; \
	done

# Exposure in tenths, as systemd-analyze counts it: 0 is none, 100 all.
UNIT_EXPOSURE = 15

units: ## systemd-analyze verify and security on the units
	@$(call need,systemd-analyze,systemd)
	deploy/deb/units.sh $(UNIT_EXPOSURE)

deb-test: deb ## install, upgrade with a backlog, remove and purge in a clean Debian root; needs root
	@$(call need,mmdebstrap,mmdebstrap)
	deploy/deb/test.sh $(DIST)/sapflow-agent_$(DEB_VERSION)_amd64.deb

check-deploy: deploy-tools-test chart-test image sbom deb-lint units deb-test qemu ## all that is checked of packaging; needs root and Debian's lintian, mmdebstrap, qemu-user, systemd

deploy-tools-test:
	$(GO) -C deploy/tools vet ./...
	$(GO) -C deploy/tools test ./...

qemu: release-binaries ## the agent's scripts on the arm64 and armhf binaries under qemu-user
	@$(call need,qemu-aarch64,qemu-user)
	@$(call need,qemu-arm,qemu-user)
	AGENT_BIN=$(CURDIR)/$(DIST)/bin/linux-arm64/sapflow-agent AGENT_RUNNER=qemu-aarch64 $(GO) test -count=1 ./agent -run 'TestScript$$'
	AGENT_BIN=$(CURDIR)/$(DIST)/bin/linux-armhf/sapflow-agent AGENT_RUNNER=qemu-arm $(GO) test -count=1 ./agent -run 'TestScript$$'

.PHONY: image sbom chart chart-test release

OCI  = $(DIST)/sapflow-hub-$(VERSION).oci.tar

image: release-binaries ## image of the hub for amd64 and arm64 as an OCI tarball, into dist/
	@$(GO) -C deploy/tools run ./image -version '$(VERSION)' -revision "$$(git rev-parse HEAD)" -epoch $(EPOCH) -out $(CURDIR)/$(OCI) \
		amd64=$(CURDIR)/$(DIST)/bin/linux-amd64/sapflow-hub arm64=$(CURDIR)/$(DIST)/bin/linux-arm64/sapflow-hub >$(OCI).digest
	@echo "$(OCI) $$(cat $(OCI).digest)"

# Of plain builds: in released ones kong goes by the name of its patched copy.
sbom: tools build ## what agent and hub are made of, CycloneDX JSON, into dist/
	@for name in agent hub; do \
		$(TOOLS)/cyclonedx-gomod bin -json -noserial -version '$(VERSION)' -output $(DIST)/sapflow-$$name-$(VERSION).cdx.json $(BIN)/sapflow-$$name || exit 1; \
	done

chart: tools ## package the chart, into dist/
	@mkdir -p $(DIST)
	$(TOOLS)/helm package deploy/helm/sapflow-hub --version '$(patsubst v%,%,$(VERSION))' --app-version '$(VERSION)' -d $(DIST)

KUBERNETES = v1.37.2

# Schemas for kubeconform, made of what the API server publishes of itself.
$(DIST)/schemas: deploy/tools/schemas/main.go
	@rm -rf $@
	$(GO) -C deploy/tools run ./schemas -out $(CURDIR)/$@ \
		"$$($(GO) -C deploy/tools mod download -json k8s.io/kubernetes@$(KUBERNETES) | sed -n 's/.*"Dir": "\(.*\)",/\1/p')/api/openapi-spec/swagger.json"

chart-test: build tools $(DIST)/schemas ## lint the chart, render it with every values file, check each object
	KUBERNETES=$(KUBERNETES) HUB=$(CURDIR)/$(BIN)/sapflow-hub deploy/helm/test.sh $(TOOLS) $(DIST)/schemas

release: ## all that a release needs: make release VERSION=x.y.z
	@echo '$(VERSION)' | grep -Eq '^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$$' || { echo "give VERSION=x.y.z"; exit 1; }
	@git diff --quiet HEAD || { echo "the tree has changes: a release is a commit"; exit 1; }
	rm -rf $(DIST)
	$(MAKE) deb image sbom chart VERSION=$(VERSION)
	@for arch in $(DEB_ARCHES); do for name in agent hub; do cp $(DIST)/bin/linux-$$arch/sapflow-$$name $(DIST)/sapflow-$$name-$(VERSION)-linux-$$arch || exit 1; done; done
	cd $(DIST) && sha256sum $$(find . -maxdepth 1 -type f ! -name SHA256SUMS -printf '%P\n' | sort) >SHA256SUMS && sha256sum -c --quiet SHA256SUMS && cat SHA256SUMS
