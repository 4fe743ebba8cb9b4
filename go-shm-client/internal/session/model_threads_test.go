package session

// stepCaller is Claim, Call and Release.
func (e *explorer) stepCaller(w world, t int, add func(world)) {
	th, slot := &w.threads[t], t
	goTo := func(at pc) {
		th.at = at
		add(w)
	}
	spin, news := callSpinFirst, callNews
	if e.texts[slot] == 0 { // calls that are not prompts do without these steps
		spin, news = callSpin, callRelease
	}
	switch th.at {
	case callClaim:
		switch {
		case w.left[slot] == 0 || w.ended && !w.free[slot]:
			goTo(callOver)
		case w.free[slot]:
			w.free[slot] = false
			w.left[slot]--
			goTo(callAdmit)
		}
	case callAdmit:
		if w.ended {
			goTo(callRelease)
			return
		}
		e.touch(&w, "admit")
		th.take, th.failed = callDisarm, callPublish
		goTo(takeLoad)    // spin ...
		goTo(callPublish) // ... or do not
	case callDisarm:
		th.reaper = true
		w.parked = false
		goTo(callPublish)
	case callPublish:
		if w.sealed && !e.noSeal {
			if th.reaper {
				th.leaveThen = callRelease
				goTo(leaveStore)
			} else {
				goTo(callRelease)
			}
			return
		}
		e.touch(&w, "publish")
		w.call[slot], w.submitted[slot] = pending, true
		w.streams[slot] = stream{}
		if th.reaper {
			goTo(spin)
		} else {
			goTo(callCount)
		}
	case callSpinFirst:
		if w.news(slot) && !e.noFirstLook {
			goTo(callSpun)
		} else {
			goTo(callSpin)
		}
	case callSpin:
		if w.ringed > 0 {
			next := w
			next.threads[t].reapThen = callSpun
			next.threads[t].at = reapTake
			add(next)
		}
		if !e.forever || w.ending || e.cancel {
			goTo(callCount) // the budget or the context ended
		}
	case callSpun:
		if w.news(slot) {
			th.leaveThen = news
			goTo(leaveStore)
		} else {
			goTo(callSpin)
		}
	case callCount:
		if e.countLate {
			goTo(callSleep)
			return
		}
		w.waiters++
		goTo(callSleep)
	case callSleep:
		if th.asleep = w.call[slot] == pending; th.asleep {
			w.call[slot] = sleeping
			if e.texts[slot] > 0 {
				goTo(callRecheck)
			} else {
				e.asleep(w, t, add)
			}
		} else {
			goTo(callUncount)
		}
	case callRecheck:
		if w.streams[slot].mores != w.streams[slot].seen && !e.noRecheck {
			goTo(callUnsleep)
		} else {
			e.asleep(w, t, add)
		}
	case callUnsleep:
		if th.asleep = w.call[slot] != sleeping; th.asleep {
			e.asleep(w, t, add)
		} else {
			w.call[slot] = pending
			goTo(callUncount)
		}
	case callUncount:
		if !e.countLate {
			w.waiters--
		}
		if th.reaper {
			goTo(callReap)
		} else {
			goTo(callLeft)
		}
	case callReap:
		th.reapThen = callLeave
		goTo(reapTake)
	case callLeave:
		th.leaveThen = callLeft
		goTo(leaveStore)
	case callLeft:
		if e.countLate && th.asleep {
			w.waiters++
		}
		if th.asleep {
			goTo(callReaderTake)
		} else {
			goTo(news)
		}
	case callReaderTake:
		if w.reader == uint8(readerNone) {
			w.reader = uint8(readerAwake)
			goTo(callReading)
		} else {
			goTo(callWait)
		}
	case callReading:
		w.reader = uint8(readerSlots) + uint8(slot)
		goTo(callLook)
	case callLook:
		if w.call[slot] != sleeping && !e.noLook || th.over {
			goTo(callLeaveReading)
			return
		}
		if e.cancel {
			goTo(callLeaveReading)
		}
		goTo(callDoorWait)
	case callDoorWait:
		switch {
		case w.bell:
			w.bell = false
			goTo(callBell)
		case w.interrupt:
			w.interrupt = false
			goTo(callNoBell)
		case w.eof:
			th.over = true
			goTo(callNoBell)
		case e.cancel: // context.AfterFunc
			goTo(callNoBell)
		}
	case callBell:
		w.reader = uint8(readerAwake)
		th.take, th.failed = callBellReap, callReading
		goTo(takeLoad)
	case callBellReap:
		th.reapThen = callBellLeave
		goTo(reapTake)
	case callBellLeave:
		th.leaveThen = callReading
		goTo(leaveStore)
	case callNoBell:
		w.reader = uint8(readerAwake)
		goTo(callReading)
	case callLeaveReading:
		w.reader = uint8(readerNone)
		goTo(callLeftReading)
	case callLeftReading:
		if w.waiters > 0 && !e.noReaderCount {
			w.readerCalled = true
		}
		goTo(callWait)
	case callWait:
		if w.token[slot] > 0 {
			next := w
			next.token[slot]--
			next.threads[t].at = news
			add(next)
		}
		if e.cancel {
			goTo(callAbandon)
		}
	case callAbandon:
		if w.call[slot] != sleeping {
			goTo(callDrain)
			return
		}
		w.call[slot] = abandoned
		if e.uncounted {
			w.waiters--
		}
		if e.abandonEarly && th.reaper {
			th.leaveThen = callClaim
			goTo(leaveStore)
			return
		}
		goTo(callClaim)
	case callDrain:
		if w.token[slot] > 0 {
			w.token[slot]--
			goTo(news)
		}
	case callNews: // Stream.Next after it has waited; a Call is always done here
		s := &w.streams[slot]
		switch {
		case w.call[slot] == done:
			goTo(callRelease)
		case e.readFirst:
			s.seen, s.read = s.mores, s.text
			goTo(callAcknowledge)
		default:
			s.seen = s.mores
			goTo(callAcknowledge)
		}
	case callAcknowledge:
		e.touch(&w, "acknowledge")
		w.streams[slot].acknowledged = w.streams[slot].seen
		goTo(callRead)
	case callRead:
		e.touch(&w, "read")
		if !e.readFirst {
			w.streams[slot].read = w.streams[slot].text
		}
		goTo(callAgain)
	case callAgain:
		th.reaper, th.asleep, th.over = false, false, false
		if e.cancel {
			goTo(callGiveUp)
		}
		th.take, th.failed = callPolls, callCount
		goTo(takeLoad)
		goTo(callCount)
	case callPolls: // disarm
		th.reaper = true
		w.parked = false
		goTo(callSpinFirst)
	case callGiveUp: // Lane.abandon
		if e.abandonAwake && w.call[slot] == pending {
			w.call[slot] = abandoned
			goTo(callGiveLate)
			return
		}
		w.waiters++
		goTo(callGiveCall)
	case callGiveCall:
		if w.reader == uint8(readerNone) && !e.noCall {
			w.readerCalled = true
		}
		th.take, th.failed = callGiveReap, callGiveSwap
		goTo(takeLoad)
	case callGiveLate: // only with abandonAwake
		w.waiters++
		goTo(callClaim)
	case callGiveReap:
		th.reapThen = callGiveLeave
		goTo(reapTake)
	case callGiveLeave:
		th.leaveThen = callGiveSwap
		goTo(leaveStore)
	case callGiveSwap:
		if w.call[slot] == pending {
			w.call[slot] = abandoned
			goTo(callClaim)
		} else {
			goTo(callGiveUncount)
		}
	case callGiveUncount:
		w.waiters--
		goTo(callRelease)
	case callRelease: // nobody looks at the state between it and the send
		w.call[slot] = idle
		e.release(&w, uint8(slot))
		goTo(callEnded)
	case callEnded:
		if w.ended {
			th.collectThen = callClaim
			goTo(collect)
		} else {
			goTo(callClaim)
		}
	}
}

// asleep goes on in Lane.sleep, with the call in the state sleeping.
func (e *explorer) asleep(w world, t int, add func(world)) {
	th := &w.threads[t]
	goTo := func(at pc) {
		th.at = at
		add(w)
	}
	switch {
	case e.abandonEarly && th.reaper && e.cancel:
		goTo(callAbandon)
		fallthrough
	case th.reaper:
		goTo(callReap)
	default:
		th.take, th.failed = callReap, callLeft
		goTo(takeLoad)
	}
}

// stepDoorbell is Attend, Bell and End.
func (e *explorer) stepDoorbell(w world, t int, add func(world)) {
	th := &w.threads[t]
	goTo := func(at pc) {
		th.at = at
		add(w)
	}
	switch th.at {
	case bellOff:
		switch {
		case w.readerCalled:
			w.readerCalled = false
			goTo(bellTake)
		case w.waiters == 0 && w.reader == uint8(readerNone): // the idleBeforeReading is over; while somebody sleeps it must go without
			goTo(bellTake)
		}
	case bellTake:
		if w.reader == uint8(readerNone) {
			w.reader = uint8(readerAwake)
			goTo(bellRead)
		} else {
			goTo(bellOff)
		}
	case bellRead:
		switch {
		case w.bell:
			w.bell = false
			th.take, th.failed = bellReap, bellDuty
			goTo(takeLoad)
		case w.interrupt:
			w.interrupt = false
			goTo(bellRead)
		case w.eof:
			goTo(endBegin)
		}
	case bellDuty:
		goTo(bellRead)
		w.reader = uint8(readerNone)
		goTo(bellQuit)
	case bellQuit:
		if w.waiters > 0 && !e.noReaderCount {
			w.readerCalled = true
		}
		goTo(bellOff)
	case bellReap:
		th.reapThen = bellLeave
		goTo(reapTake)
	case bellLeave:
		th.leaveThen = bellDuty
		goTo(leaveStore)
	case endBegin:
		w.ending = true
		goTo(endRole)
	case endRole:
		if !w.role {
			w.role = true
			th.reapThen = endSeal
			goTo(reapTake)
		}
	case endSeal:
		w.sealed = true
		goTo(endStore)
	case endStore:
		w.ended = true
		goTo(endFail0)
	case endFail0, endFail1:
		th.got, th.reapThen = uint8(th.at-endFail0), th.at+1
		if inFlight(w.call[th.got]) {
			goTo(reapSwap)
		} else {
			goTo(th.reapThen)
		}
	case endCollect:
		th.collectThen = endOver
		goTo(collect)
	}
}

// stepServer answers in any order, rings by the rules, and may die.
func (e *explorer) stepServer(w world, t int, add func(world)) {
	th := &w.threads[t]
	goTo := func(at pc) {
		th.at = at
		add(w)
	}
	switch th.at {
	case serverNext:
		if w.eof {
			return // dead, or hung up on
		}
		for slot := range w.submitted {
			if !w.submitted[slot] {
				continue
			}
			s := &w.streams[slot]
			left := w.call[slot] == abandoned
			if left || s.text == e.texts[slot] && s.read == s.text {
				next := w
				next.submitted[slot] = false
				next.ring[next.ringed] = uint8(slot)
				next.ringed++
				next.threads[t].at = serverSwap
				add(next)
			} else if s.text == s.read { // P1
				next := w
				next.streams[slot].text++
				next.threads[t].at, next.threads[t].got = serverMore, uint8(slot)
				add(next)
			}
		}
		if e.die {
			w.eof = true
			add(w)
		}
	case serverMore: // P3
		s := &w.streams[th.got]
		if s.acknowledged != s.published {
			goTo(serverNext)
			return
		}
		s.published++
		w.ring[w.ringed] = th.got | ringMore
		w.ringed++
		goTo(serverSwap)
	case serverSwap: // the load before it only saves the swap
		rang := w.parked
		w.parked = false
		if rang {
			goTo(serverRing)
		} else {
			goTo(serverNext)
		}
	case serverRing:
		w.bell = true
		goTo(serverNext)
	}
}

// stepCloser is Session.fail: beginEnd, then hang up.
func (e *explorer) stepCloser(w world, add func(world)) {
	switch {
	case e.close && w.closer == 0:
		w.closer, w.ending = 1, true
		add(w)
	case w.closer == 1:
		w.closer, w.eof = 2, true
		add(w)
	case w.closer == 2:
		w.closer, w.readerCalled = 3, true
		add(w)
	}
}
