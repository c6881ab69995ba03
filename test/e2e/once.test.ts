import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { test } from 'node:test'
import { startDeployment } from '../support/deployment.ts'
import { containersOf, docker, eventually } from '../support/docker.ts'

test(
  'a request runs at most once, whatever dies under it: one that was answered ran once, one that was not at most once',
  { timeout: 120_000 },
  async () => {
    const runs = new Map<string, number>()
    const counter = net.createServer((socket) => {
      socket.on('error', () => {})
      socket.on('data', (chunk) => {
        const id = chunk.toString()
        runs.set(id, (runs.get(id) ?? 0) + 1)
        socket.end('counted')
      })
    })
    await once(counter.listen(0, '127.0.0.1'), 'listening')
    const { port } = counter.address() as net.AddressInfo
    try {
      await using deployment = await startDeployment({ WEBTASK_PREWARMED: '2', WEBTASK_EGRESS_ALLOW: `127.0.0.1:${port}` })
      const code = `module.exports = (ctx, cb) => require('net').connect(${port}, '127.0.0.1').on('error', cb).on('data', () => setTimeout(() => cb(null, 'ran'), 50)).write(ctx.query.id)`
      await deployment.issue({ ten: 'acme', jtn: 'counts', code })
      assert.equal((await deployment.ask('/api/run/acme/counts?id=first')).text, '"ran"')
      let isOver = false
      const answers = new Map<string, number>()
      const load = Promise.all(
        Array.from({ length: 8 }, async (_, client) => {
          for (let n = 0; !isOver; n += 1) {
            const id = `${client}-${n}`
            const answer = await deployment.ask(`/api/run/acme/counts?id=${id}`)
            answers.set(id, answer.status)
            if (answer.status !== 200) assert.ok([502, 503].includes(answer.status), answer.text)
          }
        }),
      )
      for (let kills = 0; kills < 4; kills += 1) {
        const before = answers.size
        await eventually('requests are answered', () => answers.size > before + 20)
        const running = await containersOf(deployment.id, 'sandbox')
        await Promise.all(
          running.map(({ Id }) =>
            docker
              .getContainer(Id)
              .kill()
              .catch(() => {}),
          ),
        )
      }
      const before = answers.size
      await eventually('requests are answered again', () => answers.size > before + 40)
      isOver = true
      await load
      const broken = [...answers].filter(([, status]) => status !== 200)
      assert.ok(broken.length > 0, 'the kills hit requests')
      for (const [id, status] of answers) {
        const ran = runs.get(id) ?? 0
        assert.ok(status === 200 ? ran === 1 : ran <= 1, `Request ${id} got ${status} and ran ${ran} times`)
      }
    } finally {
      counter.close()
    }
  },
)
