# A Rust project, with a repository of its own: made, built, tested, committed.
command -v cargo >/dev/null || { echo "cargo is not installed"; exit 77; }
unset CARGO_TARGET_DIR RUSTFLAGS
export GIT_AUTHOR_NAME=nobody GIT_AUTHOR_EMAIL=nobody@localhost GIT_COMMITTER_NAME=nobody GIT_COMMITTER_EMAIL=nobody@localhost
cargo new --quiet --vcs none benign
cd benign
cargo build --quiet --offline
cargo test --quiet --offline
./target/debug/benign
if command -v git >/dev/null; then
    git init --quiet .
    printf 'target\n' >.gitignore
    git add --all
    git commit --quiet --message 'begin'
    git clone --quiet . ../clone
fi
