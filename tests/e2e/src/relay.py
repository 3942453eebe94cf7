# A relay between a home and a node that fails connections: see relay.rs.
# Arguments: address and port to listen on, the node's address and port, then what goes wrong.
import asyncio, random, socket, sys

near, near_port, far, far_port, faults = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:]
sources = [near, "10.77.0.3"]
count = 0


# Bytes of a direction that are passed on as they are, among them the handshake.
SOUND = 8192

# After so many bytes of a direction a session has begun.
BEGUN = 256 << 10


async def pump(reader, writer, gate, damage, begun):
    """Passes bytes on while the gate is open, and does what it finds in `damage` to some of them."""
    passed = 0
    try:
        while data := await reader.read(65536):
            await gate.wait()
            if damage and passed > SOUND:
                data = damage.pop()(data)
            passed += len(data)
            if passed > BEGUN:
                begun.set()
            writer.write(data)
            await writer.drain()
        await gate.wait()
    except OSError:
        pass
    writer.close()


def again(data):
    return data + data


def other(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


async def serve(reader, writer):
    global count
    count += 1
    number = count
    chance = random.Random(number)
    # Home's address changes with every connection.
    there = await asyncio.open_connection(far, far_port, local_addr=(sources[number % 2], 0))
    gates = [asyncio.Event(), asyncio.Event()]
    for gate in gates:
        gate.set()
    damages = [[], []]
    begun = asyncio.Event()
    ways = zip((reader, there[0]), (there[1], writer), gates, damages, [begun] * 2)
    pumps = [asyncio.create_task(pump(*way)) for way in ways]

    async def fail():
        # The first connection carries the first words; a session that has not begun may fail. One that does much is not waited for until it
        # has done all.
        if number == 1:
            await asyncio.wait([asyncio.create_task(begun.wait())], timeout=1.0)
        else:
            await asyncio.sleep(0.1 + chance.random() * 0.4)
        if "hole" in faults and number == 3:
            # Half-open: nothing passes, and nobody is told.
            for gate in gates:
                gate.clear()
            return
        # For good, one way or both; the others that come are sound.
        for fault, closed in ("deaf", gates[:1]), ("mute", gates[1:]), ("silent", gates):
            if fault in faults and number == 1:
                for gate in closed:
                    gate.clear()
        if "stall" in faults and chance.random() < 0.5:
            gate = gates[chance.randrange(2)]
            gate.clear()
            await asyncio.sleep(0.2 + chance.random())
            gate.set()
        if "damage" in faults:
            damages[chance.randrange(2)].append(chance.choice((again, other)))
        if "cut" in faults:
            for end in (writer, there[1]):
                end.transport.abort()

    failing = asyncio.create_task(fail()) if faults else None
    await asyncio.wait(pumps)
    if failing:
        failing.cancel()


async def main():
    server = await asyncio.start_server(serve, near, near_port)
    async with server:
        await server.serve_forever()


asyncio.run(main())
