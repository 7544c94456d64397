#!/bin/sh
# Builds apus_VERSION_ARCH.deb from the program that `make build` has built.
#
#     build-deb.sh BUILD-FOLDER OUTPUT-FOLDER
#
# The program is linked anew, with Swift's runtime and Foundation within it, so that the package
# needs nothing that Debian does not have. The objects are those of the usual build, which takes
# seconds where `swift build --static-swift-stdlib` compiles everything a second time.
set -eu

build=$1
output=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)

objects=$build/apus.product/Objects.LinkFileList
[ -f "$objects" ] || { echo "$objects is not there; run make build first" >&2; exit 1; }
for program in swiftc strip dpkg-deb dpkg-shlibdeps; do
    command -v "$program" >/dev/null || { echo "make deb needs $program" >&2; exit 1; }
done

version=$(sed -n 's/^ *version: "\(.*\)",$/\1/p' "$root/Sources/apus/Apus.swift")
[ -n "$version" ] || { echo "Apus.swift names no version" >&2; exit 1; }
architecture=$(dpkg --print-architecture)
# Times in the package are those of the last commit, so that the same sources make the same bytes.
: "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree/DEBIAN" "$tree/usr/bin" "$tree/etc/apus" "$tree/etc/default" \
    "$tree/usr/lib/systemd/system" "$tree/usr/lib/sysusers.d" "$tree/usr/share/doc/apus"

# The libraries of Foundation name each other in a circle.
swiftc -emit-executable -module-name apus -static-stdlib -o "$tree/usr/bin/apus" \
    -Xlinker --gc-sections -Xlinker --defsym -Xlinker main=apus_main -Xlinker --build-id=none \
    "@$objects" -L "$build" -luring -lisal -lstdc++ \
    -Xlinker --start-group -lFoundation -lFoundationInternationalization -lFoundationEssentials \
    -lCoreFoundation -l_FoundationICU -l_FoundationCShims -l_FoundationCollections \
    -lswiftSynchronization -lswift_RegexParser -Xlinker --end-group 2>"$work/link.log" ||
    { cat "$work/link.log" >&2; exit 1; }
strip --strip-all --remove-section=.comment "$tree/usr/bin/apus"

install -m 644 "$here"/*.service "$tree/usr/lib/systemd/system/"
install -m 644 "$here/apus.sysusers" "$tree/usr/lib/sysusers.d/apus.conf"
install -m 644 "$here/default" "$tree/etc/default/apus"
install -m 644 "$root/README.md" "$root/LICENSE" "$root/CHANGELOG.md" "$tree/usr/share/doc/apus/"
mv "$tree/usr/share/doc/apus/LICENSE" "$tree/usr/share/doc/apus/copyright"
cp -r "$root/docs/guides" "$root/docs/reference" "$tree/usr/share/doc/apus/"
find "$tree/usr/share/doc" -type f -exec chmod 644 {} +
find "$tree" -type d -exec chmod 755 {} +

# Which versions of the system's libraries the program needs, Debian's own tool tells.
mkdir -p "$work/debian"
printf 'Source: apus\n\nPackage: apus\nArchitecture: %s\n' "$architecture" >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info "$tree/usr/bin/apus" \
    2>"$work/shlibdeps.log" | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { cat "$work/shlibdeps.log" >&2; exit 1; }

cat >"$tree/DEBIAN/control" <<EOF
Package: apus
Version: $version
Architecture: $architecture
Maintainer: The Apus project <apus@localhost>
Section: net
Priority: optional
Installed-Size: $(du -sk --apparent-size "$tree" | cut -f1)
Depends: $depends, passwd
Recommends: systemd, chrony | systemd-timesyncd | time-daemon
Description: object store with the architecture of Apache Ozone
 Datanodes on io_uring, Reed-Solomon coding, names and places in Raft groups,
 an S3 gateway in front. One program has all roles; each has a unit of systemd.
EOF
echo /etc/default/apus >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do
    install -m 755 "$here/$script" "$tree/DEBIAN/$script"
done
(cd "$tree" && find usr -type f | LC_ALL=C sort | xargs md5sum) >"$tree/DEBIAN/md5sums"
chmod 644 "$tree/DEBIAN/control" "$tree/DEBIAN/conffiles" "$tree/DEBIAN/md5sums"
find "$tree" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

package=$output/apus_${version}_$architecture.deb
dpkg-deb --root-owner-group -Zzstd -z12 --build "$tree" "$package" >/dev/null
bytes() { stat -c %s "$1" | awk '{ printf "%.1f MB", $1 / 1e6 }'; }
echo "$package: $(bytes "$package"); program, stripped: $(bytes "$tree/usr/bin/apus")"
