# Clone, commit, merge, rebase, collect garbage, check.
export HOME=$T GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e
export GIT_AUTHOR_DATE='@1000000000 +0000' GIT_COMMITTER_DATE='@1000000000 +0000'
git init -q -b main "$T/origin" && cd "$T/origin" || exit 99
for i in $(seq 40); do mkdir -p "d$((i % 5))"; seq 1 $((i * 40)) > "d$((i % 5))/f$i"; done
git add -A && git commit -q -m one
cd "$D" && git clone -q "$T/origin" w && cd w || exit 98
for i in 1 2 3 4 5; do seq 1 $((i * 1000)) > f$i; git add -A; git commit -q -m "c $i"; done
git rev-parse HEAD
git checkout -q -b side HEAD~3 && echo x > y && git add y && git commit -q -m y && git merge -q -m both main
git rev-parse 'HEAD^{tree}'
git rebase -q HEAD~1 && git mv f1 g1 && git stash -q && git stash pop -q && git status --short
git gc -q --prune=now && git fsck --full --strict && git repack -a -d -f -q
git worktree add -q ../tree HEAD~1 && ls ../tree && git worktree remove --force ../tree
git archive HEAD | md5sum
cd .. && git clone -q --bare w b.git && git -C b.git fsck && git clone -q "file://$D/b.git" again
git -C again push -q origin HEAD:refs/heads/z && git -C b.git for-each-ref | wc -l
git clone -q b.git "$T/out" && git -C "$T/out" fsck && diff -r -x .git again "$T/out" && echo same
