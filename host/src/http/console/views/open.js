// An open session: its head, its views, and the live conversation with all that belongs to it.

import { say } from '../api.js'
import { announce, bdi, button, el, setText, show } from '../dom.js'
import * as who from '../credentials.js'
import { Outbox } from '../outbox.js'
import { Session } from '../session.js'
import { AtWork, Composer, Letters } from './composer.js'
import { Conversation, utterances } from './conversation.js'
import { Journal } from './journal.js'
import { Slots } from './slots.js'

const LINES = { opening: 'opening…', live: 'live', again: 'reconnecting…', over: 'closed' }
/** So near the end counts as at the end. */
const NEAR_PX = 48
const VIEWS = ['conversation', 'slots', 'journal']

export class Open {
  constructor(id, { view, at, go, active }) {
    this.id = id
    this.go = go
    /** Told when something happened here, and who takes part. */
    this.active = active
    this.session = new Session(id)
    this.outbox = new Outbox(this.session)
    this.outbox.author = who.author()
    this.conversation = new Conversation({
      own: () => who.author(),
      answer: (question, answer, key) => this.session.answer(question, answer, key),
      lost: () => this.composer.box.focus(),
    })
    this.letters = new Letters(this.outbox, text => this.composer.edit(text))
    this.composer = new Composer(this.session, this.outbox, { onSend: () => this.toEnd() })
    this.work = new AtWork(this.session)
    this.work.onLost = () => this.composer.box.focus()
    this.slots = new Slots({ content: async slot => (await this.session.slot(slot.slot)).content })
    this.journal = null
    this.at = at
    this.build()
    this.listen()
    this.choose(view)
    this.session.run()
  }

  build() {
    this.line = el('span.line', { role: 'status' }, LINES.opening)
    this.about = el('p.hint.about')
    this.tabs = Object.fromEntries(VIEWS.map(view => [view, button(view[0].toUpperCase() + view.slice(1), () => this.go(view), { class: 'tab' })]))
    if (!who.may('inspect')) {
      this.tabs.journal.disabled = true
      this.tabs.journal.title = who.only() ? 'The journal needs a key with the scope inspect.' : 'This key has no scope inspect.'
    }
    this.trouble = el('p.trouble', { hidden: true })
    this.older = button('Older messages', () => this.readOlder(), { class: 'quiet', hidden: true })
    this.empty = el('p.hint.empty', { hidden: true }, 'Nothing was said yet.')
    this.scroll = el('div.scroll', { tabindex: 0, role: 'region', 'aria-label': 'Conversation', on: { scroll: () => this.scrolled() } },
      this.older, this.conversation.list, this.letters.list, this.empty)
    this.below = button('New words below', () => this.toEnd(true), { class: 'below' })
    show(this.below, false)
    this.talk = el('section.talk', { 'aria-label': 'Talk' }, el('div.holder', {}, this.scroll, this.below), this.work.node, this.composer.node)
    this.aside = el('aside.slots-side', { 'aria-labelledby': 'slots-head' }, el('h2', { id: 'slots-head' }, 'Slots'), this.slots.node)
    this.journalPlace = el('section.journal-place', { 'aria-label': 'Journal' })
    this.head = el('div.session-head', {},
      el('a.back', { href: '#', hidden: Boolean(who.only()) }, 'Sessions'),
      el('h1', { tabindex: -1 }, bdi(this.id)), this.line, this.about,
      el('div.tabs', { role: 'group', 'aria-label': 'Views' }, ...Object.values(this.tabs)))
    this.node = el('div.open', {}, this.head, this.trouble, el('div.views', {}, this.talk, this.aside, this.journalPlace))
  }

  listen() {
    const { session } = this
    session.addEventListener('line', ({ detail }) => this.stand(detail))
    session.addEventListener('read', () => this.draw({ isAll: true, isFirst: true }))
    session.addEventListener('older', () => this.drawOlder())
    session.addEventListener('events', ({ detail }) => {
      for (const words of utterances(session.state, detail, who.author())) announce(words)
      this.soon()
    })
    session.addEventListener('slots', ({ detail }) => this.slots.render(detail))
    session.addEventListener('trouble', ({ detail }) => {
      this.say(detail)
      setTimeout(() => { if (this.trouble.textContent === detail) this.say('') }, 6000)
    })
    this.outbox.addEventListener('change', () => this.soon())
    this.outbox.addEventListener('refused', () => this.composer.refuse('You may read here, and not send. What you wrote is kept in this tab.'))
    this.seen = () => { if (!document.hidden) this.session.look() }
    document.addEventListener('visibilitychange', this.seen)
    this.resized = new ResizeObserver(() => { if (this.isAtEnd) this.toEnd() })
    this.resized.observe(this.scroll)
  }

  close() {
    this.session.close()
    this.journal?.close()
    this.resized.disconnect()
    document.removeEventListener('visibilitychange', this.seen)
    cancelAnimationFrame(this.frame)
  }

  choose(view, at = null) {
    this.view = VIEWS.includes(view) && !this.tabs[view].disabled ? view : 'conversation'
    this.node.dataset.view = this.view
    for (const [name, tab] of Object.entries(this.tabs)) {
      if (name === this.view) tab.setAttribute('aria-current', 'true')
      else tab.removeAttribute('aria-current')
    }
    if (this.view === 'journal') {
      if (!this.journal) {
        this.journal = new Journal(this.session, at ?? this.at)
        this.journalPlace.append(this.journal.node)
      }
      this.journal.wake()
    } else {
      this.journal?.rest()
      if (this.isAtEnd !== false) requestAnimationFrame(() => this.toEnd())
    }
  }

  stand({ state, text }) {
    setText(this.line, LINES[state])
    this.line.dataset.line = state
    if (state === 'live') this.say('')
    else if (text) this.say(text)
    this.node.classList.toggle('nowhere', state === 'over' && !this.session.state)
    if (state === 'over') this.composer.refuse('Nothing more can be sent here. What you wrote is kept in this tab.')
  }

  say(text) {
    setText(this.trouble, text)
    show(this.trouble, Boolean(text))
  }

  /** Once a frame, however many words came. */
  soon() {
    if (this.frame) return
    this.frame = requestAnimationFrame(() => this.draw())
    // Nothing is drawn in a tab behind others; what came is there when somebody looks.
  }

  draw({ isAll = false, isFirst = false } = {}) {
    cancelAnimationFrame(this.frame)
    this.frame = 0
    const { state } = this.session
    if (!state) return
    if (isFirst) this.isAtEnd = true
    this.conversation.render(state, { touched: isAll ? null : state.touched })
    state.touched.clear()
    this.letters.render()
    this.work.render(state)
    this.composer.participants(state)
    show(this.older, this.session.hasOlder())
    show(this.empty, !state.items.length && !this.outbox.letters.length)
    const names = [...state.agents.values()].filter(agent => agent.present).map(agent => agent.agent)
    setText(this.about, names.length ? `with ${names.join(', ')}` : '')
    this.active(state.time ?? this.session.seed.last_event_at)
    if (!who.only() && !who.may('invoke')) this.composer.refuse('This key has no scope invoke: you can read, and not send.')
    if (state.ended) this.composer.refuse(`This session was ${state.ended === 'expired' ? 'left for so long that it expired' : 'deleted'}.`)
    if (this.isAtEnd) this.toEnd()
    else if (!isFirst) show(this.below, true)
  }

  drawOlder() {
    const { scroll } = this
    const fromEnd = scroll.scrollHeight - scroll.scrollTop
    this.draw({ isAll: true })
    show(this.below, !this.isAtEnd && !this.below.hidden)
    scroll.scrollTop = scroll.scrollHeight - fromEnd
  }

  async readOlder() {
    this.older.disabled = true
    try {
      await this.session.older()
    } catch (error) {
      this.say(say(error))
    }
    this.older.disabled = false
    // It may be gone now; where it was, reading goes on.
    if (this.older.hidden) this.scroll.focus()
  }

  scrolled() {
    const { scroll } = this
    this.isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_PX
    if (this.isAtEnd) show(this.below, false)
  }

  toEnd(isWanted = false) {
    this.isAtEnd = true
    this.scroll.scrollTop = this.scroll.scrollHeight
    show(this.below, false)
    if (isWanted) this.scroll.focus()
  }
}
