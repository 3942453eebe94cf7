//! Tools that walk and copy trees of files: odd names, links, many entries, holes.

use afield_e2e::{Case, cases, user_cases};

/// A tree with every kind of file and name.
const TREE: &str = r#"
mkdir -p tree/a/b/c tree/empty 'tree/with space' && cd tree
echo one > a/one; echo two > a/b/two; printf 'no end' > a/b/c/three; : > a/nothing
ln a/one a/b/hard; ln a/one hard2; ln -s a/one soft; ln -s nowhere dangling; ln -s . a/loop; ln -s "$PWD/a" absolute
echo x > 'with space/ leading'; echo y > $'new\nline'; echo z > $'not\xffutf8\xfe'; echo q > 'quote"'"'"'s'; echo s > '*?['; echo d > -dash
echo u > 'ünïcödé'; echo t > $'tab\there'; echo b > 'back\slash'
long=$(printf %0255d 7); echo l > "$long"
mkfifo fifo; seq 1 20000 > numbers; truncate -s 10M sparse; printf end | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
chmod 640 a/one; chmod 755 a/b/two; chmod 400 a/nothing; chmod 2755 a/b/c; chmod 1777 empty
find . -exec touch -h -d '2020-02-02 02:02:02.123456789 UTC' {} +
cd .."#;

user_cases! {
    /// What only root may do; to others it is refused, in the same words.
    capabilities_of_files: Case::guest("cp /bin/true f; setcap cap_net_raw,cap_chown+ep f; echo $?; getcap f; cp --preserve=all f g 2>&1; getcap g; tar --xattrs --xattrs-include='*' -cf t.tar f; mkdir x; tar --xattrs --xattrs-include='*' -xf t.tar -C x 2>&1; getcap -r .; echo y >> f; getcap f; setcap -r g; echo $?; setfattr -n trusted.overlay.opaque -v y x; getfattr -d -m '^trusted' x; rm t.tar").tools(&["setcap", "getcap", "setfattr"]);
    locked_by_flags: Case::guest("echo x > f; mkdir d; chattr +i f d 2>&1; lsattr f; lsattr -d d; echo y >> f; echo z > d/z; rm -f f 2>&1; touch d/y 2>&1; mv f g 2>&1; chattr -R -i f d g; chattr +a g 2>&1; echo more >> g; echo over > g; truncate -s 0 g 2>&1; chattr -a g; cat g; ls").tools(&["chattr"]);
    devices: Case::guest("mknod c c 1 3; mknod -m 640 b b 7 200; mkfifo p; stat -c '%A %t %T %n' c b p; tar cf t.tar c b p; mkdir x; tar xf t.tar -C x 2>&1; ls -l x | awk '{print $1, $5, $6}' | cut -c1-20; cp -a c d 2>&1; stat -c '%A %t %T' d; rm -rf t.tar x");
    access_lists: Case::guest("umask 022; echo x > f; mkdir d; setfacl -m u:12345:rw,g:54321:r f; setfacl -d -m u:12345:rwx d; getfacl -n f d; cp -p f g; getfacl -n g; echo y > d/h; getfacl -n d/h; ls -l f g d/h | cut -c1-11; tar --acls -cf t f; rm f; tar --acls -xf t; rm t; getfacl -n f; setfacl -x u:12345 f; getfacl -n f; setfacl -b f; getfacl -n f; getfattr -n system.posix_acl_access f; getfattr -d -m - f g; setfacl -m u:nobody:x nosuch; cd d; getfacl -n . h; ln -s h l; getfacl -n l").tools(&["setfacl", "getfattr", "tar"]);
    find: Case::guest("find tree -printf '%P %y %s %m %n %l %Ts\\n' | LC_ALL=C sort").setup(TREE).mask(without_directory_sizes);
    tar: Case::guest("tar -C tree --sort=name -cf t.tar . && mkdir out && tar -C out -xpf t.tar && tar tf t.tar | md5sum; rm t.tar").setup(TREE);
}

cases! {
    list: Case::guest("cd tree; ls -lA --time-style=full-iso | tail -n +2 | tr -s ' ' | cut -d' ' -f1,2,3,4,6- ; ls -ab; ls | wc -l").setup(TREE);
    checksums: Case::guest("find tree -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum").setup(TREE);
    copy: Case::guest("cp -a tree copy; cp -r tree/a plain; cp --sparse=always tree/sparse s; cp -l tree/a/one linked; cp -s $PWD/tree/a/one symbolic; diff -r tree copy 2>&1 | grep -v fifo").setup(TREE);
    move_tree: Case::guest("mv tree/a b; mv b tree/empty; mv -n tree/soft tree/hard2; find . | LC_ALL=C sort").setup(TREE);
    remove: Case::guest("rm -r tree/a tree/with*; rm -rf tree; ls").setup(TREE);
    rsync: Case::guest("rsync -aHAX tree/ one/; rsync -a --delete one/a/ one/with*/; rsync -a -i tree/ one/ | sort; rsync -ac --inplace tree/numbers other").setup(TREE).tools(&["rsync"]);
    tar_of_home: Case::home("tar -C tree --sort=name -cf - . | $AF tar -C . -xpf - ; $AF tar --sort=name -C tree -cf - . | md5sum; tar --sort=name -C tree -cf - . | md5sum").setup(TREE);
    cpio: Case::guest("cd tree; find . -depth -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet --reproducible | (mkdir ../out; cd ../out; cpio -idm --quiet); ls ../out | wc -l").setup(TREE).tools(&["cpio"]);
    zip_and_compress: Case::guest("tar -C tree --sort=name -cf t.tar .; gzip -nk t.tar; xz -k t.tar; bzip2 -k t.tar; for f in t.tar.*; do md5sum < $f; done; gunzip -c t.tar.gz | cmp - t.tar && xz -dc t.tar.xz | cmp - t.tar && echo same; rm t.tar*").setup(TREE).tools(&["xz", "bzip2"]);
    deep: Case::guest("i=0; while [ $i -lt 60 ]; do d=dir-number-$i-with-a-rather-long-name; mkdir $d; cd $d || exit; i=$((i+1)); done; pwd | wc -c; echo deep > file; cd -P ..; cat */file; cd ../../..; find . -name file | wc -c");
    large_directory: Case::guest("mkdir d; cd d; seq -f 'entry-%05g' 1 10000 | xargs touch; ls | wc -l; ls | md5sum; find . -name '*77*' | wc -l; ls -U | sort | md5sum; rm *5; ls | wc -l; rm -r ../d").seconds(120);
    large_directory_of_home: Case::home("mkdir d; seq -f 'd/entry-%05g' 1 10000 | xargs touch; $AF sh -c 'ls d | md5sum; ls -l d | wc -l; rm d/*3'; ls d | md5sum; rm -r d").seconds(120);
    many_small_files: Case::guest("for i in $(seq 1 300); do echo $i > f$i; done; cat f* | sort -n | md5sum; for i in $(seq 1 300); do mv f$i g$i; done; ls | wc -l; grep -l 7 g* | wc -l; rm g*");
    sparse: Case::guest("truncate -s 200M big; echo x >> big; stat -c %s big; du -k big | cut -f1; cp --sparse=auto big copy; cmp big copy && du -k copy | cut -f1; rm big copy").seconds(120);
    changed_by_home: Case::home("echo 1 > f; $AF sh -c 'cat f; echo 2 > f'; cat f; echo three > f; $AF cat f; rm f; $AF cat f 2>/dev/null; echo $?; mkdir f; $AF stat -c %F f");
    changed_meanwhile: Case::home("mkfifo to from; $AF sh -c 'while read x; do cat f 2>/dev/null || echo none; ls | wc -l; stat -c %s f 2>/dev/null; echo done > from; done < to' > out & exec 3>to 4<>from; for i in 1 2 3; do echo version $i > f; echo go >&3; read x <&4; rm f; echo go >&3; read x <&4; : > new$i; done; exec 3>&-; wait; cat out");
    editing: Case::guest("seq 1 1000 > f; sed -i s/5/five/ f; perl -pi -e 's/7/seven/' f; sort -o f f; md5sum < f; truncate -s 100 f; tail -c 20 f; split -l 5 f part; cat part* | cmp - f && ls").tools(&["perl"]);
    links: Case::guest("echo x > a; ln a b; ln -s a c; ln -sf b c; readlink -f c; ln -f b d; stat -c %h a; unlink b; stat -c %h a; [ a -ef d ] && echo same; realpath --relative-to=. c; ln a /proc/x 2>/dev/null; echo $?");
    permissions: Case::guest("umask 077; mkdir p; echo x > p/f; chmod 000 p/f; cat p/f 2>&1; chmod u=rw,go=r p/f; chmod +t p; chmod -R g+w p; install -m 751 p/f q; stat -c '%a %n' p p/f q; chown 0 p 2>/dev/null; echo $?");
    extended_attributes: Case::guest("touch f; setfattr -n user.a -v one f; setfattr -n user.b -v $(printf %01000d 5) f; getfattr -d f | md5sum; setfattr -x user.a f; cp --preserve=xattr f g; getfattr g").tools(&["setfattr", "getfattr"]);
    touch: Case::guest("touch -d '1999-12-31 23:59:59.999999999 UTC' a; touch -r a b; touch -a -d '2001-01-01 UTC' c; touch -m -d '2002-02-02 UTC' c; stat -c '%n %x %y' a b; stat -c %y c; [ a -ot c ] && echo older");
}

/// A directory's own size is its file system's business.
fn without_directory_sizes(bytes: &[u8]) -> Vec<u8> {
    let text: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let lines = text.iter().map(|line| {
        let mut words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        if let Some(at) = words.iter().position(|word| *word == b"d") {
            words[at + 1] = b"-";
        }
        words.join(&b' ')
    });
    lines.collect::<Vec<_>>().join(&b'\n')
}
