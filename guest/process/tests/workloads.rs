//! Work for real programs, which tests capture in the middle of it.

/// A program of CPython: three threads write to buffers of so many MiB each, so often, then hash
/// them.
pub fn python(buffer_mib: u32, turns: u32) -> String {
    format!(
        "
import hashlib, threading
size = {buffer_mib} << 20
buffer = bytearray(3 * size)
def work(number):
    for turn in range({turns}):
        block = hashlib.sha512(bytes([number, turn])).digest() * (1 << 12)
        for at in range(number * size, (number + 1) * size, len(block)):
            old = int.from_bytes(buffer[at:at + 64], 'little')
            buffer[at:at + len(block)] = block
            new = old * 6364136223846793005 + turn & (1 << 64) - 1
            buffer[at:at + 8] = new.to_bytes(8, 'little')
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
squares = {{number: str(number * number) for number in range({turns} * 32000)}}
print(hashlib.sha256(buffer).hexdigest(), sum(len(text) for text in squares.values()))
for turn in range({turns}):
    print(turn, hashlib.sha256(buffer + bytes([turn])).hexdigest())
"
    )
}

/// Statements for sqlite3 on a table in memory with so many rows.
pub fn sqlite(rows: u32) -> String {
    format!(
        "
pragma temp_store = memory;
create table t(id integer primary key, word text, number integer);
create index w on t(word);
with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows})
insert into t select i, printf('word %d', i * 7919 % 100003), i * i % 1009 from n;
update t set number = number + length(word) where id % 3 = 0;
select number, count(*), sum(id) from t group by number order by 2 desc, 1 limit 20;
delete from t where id % 5 = 0;
select a.word, count(*) from t a join t b on a.word = b.word
group by a.word order by 2 desc, 1 limit 20;
with recursive n(i) as (select 1 union all select i + 1 from n where i < {rows} * 20)
select sum(i * i % 7), count(*) from n;
pragma integrity_check;
"
    )
}

/// Arguments of xz with two threads.
pub const XZ: [&str; 5] = ["xz", "-T2", "-1", "--block-size=256KiB", "-c"];

/// Size of its input.
pub fn text(bytes: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..bytes)
        .flat_map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            format!("{:x} ", state >> 52).into_bytes()
        })
        .take(bytes)
        .collect()
}
