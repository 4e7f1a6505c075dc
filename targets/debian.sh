# Packages and sources of Debian, without changing the machine's own: for scripts that say `. targets/debian.sh`.
#
# Set before: `work`, a folder for what is written. The including script defines `not_checked REASON`, which ends it with 77.

debian_keys=/usr/share/keyrings/debian-archive-keyring.gpg

# read_suite SUITE: from now on own_apt reads this suite, sources included. Of the machine's settings only the network ones
# are taken over: the others may hold hooks that clean the machine's caches.
read_suite() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || not_checked "this is not a Debian system"
    [[ -e $debian_keys ]] || not_checked "$debian_keys is missing (package debian-archive-keyring)"
    local suite=$1 folder=$work/apt/$1 mirror kind
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
    mirror=${mirror%% *}
    mkdir -p "$folder"/{lists/partial,cache/archives/partial,parts}
    for kind in deb deb-src; do
        echo "$kind [signed-by=$debian_keys] ${mirror:-http://deb.debian.org/debian} $suite main"
    done >"$folder/sources.list"
    {
        apt-config dump | grep -E '^Acquire::(http|https|Check-)' || true
        echo "Dir::Etc::Main \"/dev/null\"; Dir::Etc::Parts \"$folder/parts\";"
        echo "Dir::Etc::SourceList \"$folder/sources.list\"; Dir::Etc::SourceParts \"$folder/parts\";"
        echo "Dir::State::Lists \"$folder/lists\"; Dir::Cache \"$folder/cache\";"
        # root's helper account may not be allowed to write here
        echo 'APT::Sandbox::User ""; Acquire::Languages "none";'
    } >"$folder/apt.conf"
    own_apt_conf=$folder/apt.conf
    own_apt apt-get -qq update || not_checked "Debian's $suite cannot be read"
}

# apt with lists, cache and settings of its own.
own_apt() {
    APT_CONFIG=$own_apt_conf "$@"
}

# install_packages NAME...: those that the machine lacks, as root or where sudo asks nothing.
install_packages() {
    local missing=() name as_root=''
    command -v dpkg-query >/dev/null || not_checked "this is not a Debian system"
    for name in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || not_checked "not root; missing packages: ${missing[*]}"
        as_root='sudo -n'
    fi
    echo "installing ${missing[*]}"
    # an update that fails for one of several sources may still be good enough
    $as_root apt-get -qq update || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" ||
        not_checked "packages cannot be installed: ${missing[*]}"
}
