#!/usr/bin/env bash
# Builds a real kube-apiserver, kube-controller-manager and kube-scheduler (Kubernetes 1.20) from Debian's source
# package, and installs etcd, kubectl and what the chaos tests need. About six minutes on two cores, once; the binaries
# are kept in $LBPROXY_K8S_BIN. Needs Debian 12 and root (for apt-get).
set -euo pipefail

bin=$(realpath -m "${LBPROXY_K8S_BIN:-$HOME/.cache/lbproxy/k8s}")
programs=(kube-apiserver kube-controller-manager kube-scheduler)
work=$(realpath -m "${LBPROXY_K8S_WORK:-/tmp/lbproxy-k8s}")
log=$work/build.log
trap 'echo "failed; what apt and dpkg said is in $log" >&2' ERR

have_all() {
  for program in "${programs[@]}"; do [ -x "$bin/$program" ] || return 1; done
}

packages=()
command -v etcd > /dev/null || packages+=(etcd-server)
command -v kubectl > /dev/null || packages+=(kubernetes-client)
command -v haproxy > /dev/null || packages+=(haproxy)
command -v nft > /dev/null || packages+=(nftables)
have_all || packages+=(golang-go dpkg-dev)

mkdir -p "$bin" "$work"
if [ ${#packages[@]} -gt 0 ]; then
  echo "installing ${packages[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >> "$log" 2>&1
fi
have_all && { echo "Kubernetes is in $bin"; exit 0; }

# The machine's own package sources, asked for source packages, in a directory of our own.
apt_dir=$work/apt
mkdir -p "$apt_dir"/{parts,lists/partial,cache/archives/partial}
sed 's/^Types: .*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > "$apt_dir/parts/debian.sources"
apt_source=(apt-get -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$apt_dir/parts"
  -o "Dir::State::lists=$apt_dir/lists" -o "Dir::Cache=$apt_dir/cache")

cd "$work"
if [ ! -d tree ]; then
  echo "fetching the source package (apt-get source kubernetes)"
  "${apt_source[@]}" update -qq
  "${apt_source[@]}" source --download-only kubernetes >> "$log" 2>&1
  rm -rf tree.part
  dpkg-source -x kubernetes_*.dsc tree.part >> "$log" 2>&1
  mv tree.part tree
fi

# The 1.20 tree is built in GOPATH mode, from its vendored dependencies: nothing is downloaded.
export GO111MODULE=off GOFLAGS='' CGO_ENABLED=0 GOPATH=$work/gopath GOCACHE=$work/gocache
mkdir -p "$GOPATH/src/k8s.io"
ln -sfn "$work/tree" "$GOPATH/src/k8s.io/kubernetes"
cd "$GOPATH/src/k8s.io/kubernetes"

# Debian leaves the generated OpenAPI definitions out; the generator is in the tree.
generated=pkg/generated/openapi/zz_generated.openapi.go
if [ ! -f "$generated" ]; then
  echo "generating OpenAPI definitions"
  go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  inputs=$(grep -rlE --include='*.go' '^// \+k8s:openapi-gen=true' pkg staging/src cmd |
    xargs -n1 dirname | grep -v generated/openapi | sort -u |
    sed -e 's#^#k8s.io/kubernetes/#' -e 's#k8s.io/kubernetes/staging/src/#k8s.io/kubernetes/vendor/#' | paste -sd, -)
  : > "$work/header.txt"
  "$work/openapi-gen" -O zz_generated.openapi -p k8s.io/kubernetes/pkg/generated/openapi \
    -i "$inputs" -h "$work/header.txt" -r "$work/violations.txt"
fi

# In GOPATH mode a vendored package is named by where it lies; the linker ignores -X for any other name.
vendor=k8s.io/kubernetes/vendor/k8s.io
flags='-s -w'
for package in component-base/version client-go/pkg/version; do
  flags+=" -X $vendor/$package.gitVersion=v1.20.2 -X $vendor/$package.gitMajor=1 -X $vendor/$package.gitMinor=20"
done
for program in "${programs[@]}"; do
  echo "building $program"
  nice go build -ldflags "$flags" -o "$work/$program" "./cmd/$program"
done
# All at once: what is in $bin is complete.
mv "${programs[@]/#/$work/}" "$bin/"
echo "Kubernetes is in $bin; $work (2 GB) may be removed"
