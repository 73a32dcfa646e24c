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

/// A program of Node.js: a chain of hashes, each in another turn of its event loop, with timers and
/// files that its thread pool reads.
pub fn node(turns: u32) -> String {
    format!(
        "
const crypto = require('crypto'), fs = require('fs');
let digest = Buffer.from('begin'), turn = 0, timers = 0;
const timer = setInterval(() => timers += 1, 1);
function step() {{
    for (let round = 0; round < 200; round++)
        digest = crypto.createHash('sha256').update(digest).digest();
    turn += 1;
    if (turn % 50 == 0) console.log(turn, digest.toString('hex'));
    if (turn == {turns}) return done();
    if (turn % 10 == 0) fs.readFile('input', next);
    else if (turn % 10 == 5) crypto.pbkdf2(digest, 'salt', 10, 32, 'sha256', mix);
    else setImmediate(step);
}}
function next(error) {{ setTimeout(step, 1); }}
function mix(error, key) {{ digest = key; step(); }}
function done() {{ clearInterval(timer); console.log(timers > 0, 'done'); }}
step();
"
    )
}

/// A program of CPython: tasks of asyncio pass numbers to each other by queues, by pairs of sockets
/// and by threads, with pauses.
pub fn asyncio(turns: u32) -> String {
    format!(
        "
import asyncio, hashlib, socket
async def worker(number, inbox, outbox):
    while True:
        digest = await inbox.get()
        if digest is None: return await outbox.put(None)
        for turn in range(300): digest = hashlib.sha256(digest).digest()
        await asyncio.sleep(0.001 * (number % 2))
        await outbox.put(digest)
async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def main():
    queues = [asyncio.Queue() for _ in range(4)]
    tasks = [asyncio.create_task(worker(n, queues[n], queues[n + 1])) for n in range(3)]
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    server = asyncio.create_task(echo(*await asyncio.open_connection(sock=theirs)))
    digest = b'begin'
    for turn in range({turns}):
        await queues[0].put(digest)
        digest = await queues[3].get()
        writer.write(digest.hex().encode() + b'\\n')
        line = await reader.readline()
        if turn % 20 == 0: print(turn, line.decode().strip(), flush=True)
        if turn % 30 == 0:
            digest = await asyncio.to_thread(hashlib.pbkdf2_hmac, 'sha256', digest, b's', 99)
    await queues[0].put(None)
    await asyncio.gather(*tasks)
    writer.close()
    await server
    print('done')
asyncio.run(main())
"
    )
}
