// What was typed and sent. Nothing typed is lost: drafts and unsent messages are kept in sessionStorage, and each message
// has an idempotency key of its own, so that trying again, also after a reload, says it once.

import { mayPass, pause, say, wait } from './api.js'

export class Outbox extends EventTarget {
  constructor(session) {
    super()
    this.session = session
    this.place = `antiphon.console.out.${session.id}`
    this.draftPlace = `antiphon.console.draft.${session.id}`
    try { this.letters = JSON.parse(sessionStorage.getItem(this.place)) ?? [] } catch { this.letters = [] }
    session.addEventListener('read', () => this.settle())
    session.addEventListener('events', () => this.settle())
    if (this.letters.length) session.addEventListener('read', () => this.go(), { once: true })
  }

  get draft() {
    return sessionStorage.getItem(this.draftPlace) ?? ''
  }

  set draft(text) {
    if (text) sessionStorage.setItem(this.draftPlace, text)
    else sessionStorage.removeItem(this.draftPlace)
  }

  keep() {
    if (this.letters.length) sessionStorage.setItem(this.place, JSON.stringify(this.letters))
    else sessionStorage.removeItem(this.place)
    this.dispatchEvent(new Event('change'))
  }

  send(text, to) {
    const since = this.session.state?.offset ?? ''
    const bytes = crypto.getRandomValues(new Uint8Array(16))
    const key = [...bytes].map(byte => byte.toString(16).padStart(2, '0')).join('')
    this.letters.push({ key, text, to, since, standing: 'sending', message: null })
    this.keep()
    this.go()
  }

  /** One after the other, in the order they were written. */
  async go() {
    if (this.isGoing) return
    this.isGoing = true
    try {
      let letter
      while ((letter = this.letters.find(one => one.standing === 'sending' && one.message === null))) {
        await this.deliver(letter)
        if (this.session.stop.signal.aborted) return
      }
    } finally {
      this.isGoing = false
    }
  }

  async deliver(letter) {
    for (let attempt = 0; this.letters.includes(letter) && letter.standing === 'sending'; attempt += 1) {
      try {
        const body = { body: letter.text, ...(letter.to ? { to: letter.to } : {}), ...(this.author ? { author: this.author } : {}) }
        const sent = await this.session.ask('POST', '/messages', { body, headers: { 'idempotency-key': letter.key } })
        letter.message = sent.message
        letter.note = ''
        this.settle()
        return
      } catch (error) {
        if (this.session.stop.signal.aborted) return
        letter.note = say(error)
        if (!mayPass(error)) letter.standing = 'failed'
        this.keep()
        if (error.code === 'insufficient_scope') this.dispatchEvent(new Event('refused'))
        if (letter.standing === 'failed') return
        await wait(pause(attempt, error), this.session.stop.signal)
        if (this.session.stop.signal.aborted) return
      }
    }
  }

  again(letter) {
    letter.standing = 'sending'
    letter.note = ''
    this.keep()
    this.go()
  }

  drop(letter) {
    this.letters = this.letters.filter(one => one !== letter)
    this.keep()
  }

  /** A message that is in the conversation is not in here any more. */
  settle() {
    const { messages } = this.session.state
    const left = this.letters.filter(letter => !messages.has(letter.message) && !this.isOlder(letter))
    if (left.length !== this.letters.length || this.letters.some(letter => letter.message)) {
      this.letters = left
      this.keep()
    }
  }

  /** It was taken, and stands before what is in memory. */
  isOlder(letter) {
    const at = Number(letter.message?.split(':').at(-1))
    return letter.message !== null && at <= Number(this.session.state.offset?.split('_')[0] ?? 0)
  }

  /** Letters to show: one whose event came before its answer is in the conversation already. */
  shown() {
    const state = this.session.state
    const claimed = new Set()
    return this.letters.filter(letter => {
      if (letter.standing !== 'sending' || letter.message !== null) return true
      const event = [...state.messages.values()].find(item => item.type === 'message' && item.offset > letter.since &&
        item.text === letter.text && (!this.author || item.author === this.author) && !claimed.has(item))
      if (event) claimed.add(event)
      return !event
    })
  }
}
