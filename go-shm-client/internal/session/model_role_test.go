package session

// step adds every state that thread t can reach in one step.
func (e *explorer) step(w world, t int, add func(world)) {
	th := &w.threads[t]
	goTo := func(at pc) {
		th.at = at
		add(w)
	}
	takeThen := func(success, failure pc) { // calls takeRole, without a step of its own
		th.take, th.failed = success, failure
		goTo(takeLoad)
	}
	switch {
	case th.at <= callOver:
		e.stepCaller(w, t, add)
	case th.at <= endOver:
		e.stepDoorbell(w, t, add)
	case th.at <= serverRing:
		e.stepServer(w, t, add)
	}
	switch th.at {
	case takeLoad:
		if w.role || w.ending {
			goTo(th.failed)
		} else {
			goTo(takeSwap)
		}
	case takeSwap:
		if w.role {
			goTo(th.failed)
		} else {
			w.role = true
			goTo(th.take)
		}

	case leaveStore:
		if !w.role {
			e.fail(w, "the role is left by somebody who does not hold it")
		}
		th.head = w.taken
		if e.armFirst && w.waiters > 0 {
			w.parked = true
			if w.ringed == 0 {
				goTo(leaveArmed)
				return
			}
		}
		w.role = false
		goTo(leaveCount)
	case leaveArmed:
		w.role = false
		goTo(th.leaveThen)
	case leaveCount:
		if w.waiters == 0 || e.noCount {
			goTo(th.leaveThen)
		} else {
			goTo(leaveArm)
		}
	case leaveArm:
		e.touch(&w, "the leaver")
		w.parked = true
		if e.noLastLook {
			goTo(th.leaveThen)
		} else {
			goTo(leavePeek)
		}
	case leavePeek:
		e.touch(&w, "the leaver")
		if w.taken+w.ringed == th.head {
			goTo(th.leaveThen)
		} else {
			takeThen(leaveDisarm, th.leaveThen)
		}
	case leaveDisarm:
		e.touch(&w, "the leaver")
		w.parked = false
		th.reapThen = leaveStore
		goTo(reapTake)

	case reapTake:
		e.touch(&w, "the reaper")
		if w.ringed == 0 {
			goTo(th.reapThen)
			return
		}
		th.got = w.ring[0]
		copy(w.ring[:], w.ring[1:])
		w.ring[len(w.ring)-1], w.ringed = 0, w.ringed-1
		w.taken++
		if th.got&ringMore == 0 {
			goTo(reapSwap)
			return
		}
		th.got &^= ringMore
		if !inFlight(w.call[th.got]) {
			e.fail(w, "there is more of slot %d in state %d", th.got, w.call[th.got])
		}
		goTo(reapMore)
	case reapMore:
		if !e.moreLate {
			w.streams[th.got].mores++
		}
		goTo(reapMoreSwap)
	case reapMoreSwap:
		slept := w.call[th.got] == sleeping
		if slept {
			w.call[th.got] = pending
			if e.moreLate {
				w.streams[th.got].mores++
			}
		}
		switch {
		case slept:
			goTo(reapSleeper)
		case e.moreLate:
			goTo(reapMoreLate)
		default:
			goTo(reapTake)
		}
	case reapMoreLate: // only with moreLate
		w.streams[th.got].mores++
		goTo(reapTake)
	case reapSwap:
		old := w.call[th.got]
		if !inFlight(old) {
			e.fail(w, "slot %d is completed in state %d", th.got, old)
		}
		w.call[th.got] = done
		switch old {
		case sleeping:
			goTo(reapSleeper)
		case abandoned:
			goTo(reapAbandoned)
		default:
			goTo(e.afterFinish(th))
		}
	case reapSleeper:
		w.waiters--
		goTo(reapToken)
	case reapToken:
		if w.token[th.got]++; w.token[th.got] > 1 {
			e.fail(w, "a second token is sent")
		}
		goTo(reapWake)
	case reapWake:
		if w.reader == uint8(readerSlots)+th.got && !e.noInterrupt {
			w.interrupt = true
		}
		goTo(e.afterFinish(th))
	case reapAbandoned:
		if !e.uncounted {
			w.waiters--
		}
		goTo(reapFree)
	case reapFree:
		w.call[th.got] = idle
		e.release(&w, th.got)
		goTo(e.afterFinish(th))

	case collect:
		for slot := range w.free {
			if w.free[slot] {
				next := w
				next.free[slot] = false
				if next.collected++; next.collected == 2 {
					next.unmapped = true
					next.threads[t].at = th.collectThen
				}
				add(next)
			}
		}
		if w.free == [2]bool{} {
			goTo(th.collectThen)
		}
	}
}

// afterFinish: finish is called by reap, in a loop, and by End, slot by slot.
func (e *explorer) afterFinish(th *thread) pc {
	if th.reapThen == endFail1 || th.reapThen == endCollect {
		return th.reapThen
	}
	return reapTake
}

// news is call.news.
func (w *world) news(slot int) bool {
	return w.call[slot] == done || w.streams[slot].mores != w.streams[slot].seen
}

func (e *explorer) release(w *world, slot uint8) {
	if w.free[slot] {
		e.fail(*w, "slot %d is released twice", slot)
	}
	w.free[slot] = true
}
